import CLinux
import Graft
import ImageMessages

/// ITIMER_REAL, ITIMER_VIRTUAL and ITIMER_PROF: setitimer(2). Remaining time and interval, in seconds and microseconds.
struct IntervalTimers {
    private let buffers: [Batch.Buffer]

    init(_ batch: inout Batch) {
        buffers = (0..<3).map { which in
            let buffer = batch.output(32)
            batch.call("getitimer", SYS_getitimer, .init(which), buffer.argument)
            return buffer
        }
    }

    func answer(_ batch: Batch, into timers: inout TaskTimersEntry) {
        let entries = buffers.map { buffer in
            var entry = ItimerEntry()
            (entry.isec, entry.iusec) = (batch.word(of: buffer, 0), batch.word(of: buffer, 1))
            (entry.vsec, entry.vusec) = (batch.word(of: buffer, 2), batch.word(of: buffer, 3))
            return entry
        }
        (timers.real, timers.virt, timers.prof) = (entries[0], entries[1], entries[2])
    }

    static func restore(_ timers: TaskTimersEntry, into batch: inout Batch) throws {
        for (which, entry) in [timers.real, timers.virt, timers.prof].enumerated() {
            var value = (entry.vsec, entry.vusec)
            // It fired as it was read: the next time is an interval away.
            if value == (0, 0) { value = (entry.isec, entry.iusec) }
            if value == (0, 0) { continue }
            guard entry.iusec < 1_000_000, value.1 < 1_000_000 else {
                throw CheckpointError("restore", .object("interval timer \(which)"), "\(max(entry.iusec, value.1)) is not a number of microseconds below a second")
            }
            let setting = batch.words([entry.isec, entry.iusec, value.0, value.1])
            batch.call("setitimer", SYS_setitimer, .init(which), setting.argument, 0)
        }
    }
}
