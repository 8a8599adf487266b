import CLinux
import Glibc
import Graft
import ImageMessages
import Linux

/// timer_create(2) timers. /proc/PID/timers tells which there are and how they notify; the task tells their times.
package struct PosixTimers {
    /// One timer of /proc/PID/timers (proc(5); fs/proc/base.c, show_timer).
    struct Description: Equatable {
        var id: Int32 = 0, signal: Int32 = 0, value: UInt64 = 0, notify: UInt32 = 0, thread: Int32?, clock: Int32 = 0
    }

    private let asked: [(timer: Description, setting: Batch.Buffer, overrun: Batch.Call)]

    init(_ batch: inout Batch, process: ThreadID) throws {
        let timers = Self.parse(try Files.text("/proc/\(process)/timers"))
        // Two calls and 40 bytes each.
        guard timers.count * 2 + 64 < batch.room, timers.count * 40 + 8192 < batch.dataRoom else {
            throw CheckpointError("dump", .task(process), "it has \(timers.count) POSIX timers, more than can be saved yet")
        }
        asked = timers.sorted { $0.id < $1.id }.map { timer in
            let setting = batch.output(32)
            batch.call("timer_gettime", SYS_timer_gettime, .init(timer.id), setting.argument)
            let overrun = batch.call("timer_getoverrun", SYS_timer_getoverrun, .init(timer.id), mayFail: true)
            return (timer, setting, overrun)
        }
    }

    func answer(_ batch: Batch) -> [PosixTimerEntry] {
        asked.map { timer, setting, overrun in
            var entry = PosixTimerEntry()
            entry.itID = UInt32(bitPattern: timer.id)
            entry.clockID = UInt32(bitPattern: timer.clock)
            entry.siSigno = UInt32(bitPattern: timer.signal)
            entry.itSigevNotify = timer.notify
            entry.sivalPtr = timer.value
            if let thread = timer.thread { entry.notifyThreadID = thread }
            entry.overrun = UInt32(truncatingIfNeeded: max(0, batch.result(overrun)))
            (entry.isec, entry.insec) = (batch.word(of: setting, 0), batch.word(of: setting, 1))
            (entry.vsec, entry.vnsec) = (batch.word(of: setting, 2), batch.word(of: setting, 3))
            return entry
        }
    }

    /// Marks periodic timers whose signal waits to be delivered: the kernel arms those again at the delivery, counting what
    /// they missed (kernel/time/posix-timers.c, posixtimer_deliver_signal).
    static func markPending(_ timers: inout [PosixTimerEntry], shared: SignalQueueEntry) {
        for index in timers.indices where timers[index].isec != 0 || timers[index].insec != 0 {
            let timer = timers[index]
            let queue = timer.hasNotifyThreadID ? (try? PendingSignals.dump(of: ThreadID(timer.notifyThreadID), shared: false)) ?? .init() : shared
            if queue.signals.contains(where: { PendingSignals.timer($0.bytes) == timer.itID }) { timers[index].pendingRearm = true }
        }
    }
    /// Timers that queue their signal by themselves, as `restore` arms them.
    static func queueing(_ timers: [PosixTimerEntry]) -> Set<UInt32> {
        Set(timers.filter { $0.pendingRearm && ($0.isec != 0 || $0.insec != 0) && !PendingSignals.ends($0.siSigno) }.map(\.itID))
    }

    static func parse(_ text: String) -> [Description] {
        var found = [Description]()
        for line in text.split(separator: "\n") {
            guard let colon = line.firstIndex(of: ":") else { continue }
            let value = line[line.index(after: colon)...].drop { $0 == " " }
            if line.hasPrefix("ID:") { found.append(Description(id: Int32(value) ?? 0)); continue }
            guard let last = found.indices.last else { continue }
            if line.hasPrefix("signal:") {  // signal: 37/00000000deadbeef
                let parts = value.split(separator: "/")
                if parts.count == 2 { (found[last].signal, found[last].value) = (Int32(parts[0]) ?? 0, UInt64(parts[1], radix: 16) ?? 0) }
            } else if line.hasPrefix("notify:") {  // notify: signal/tid.2634
                let parts = value.split(whereSeparator: { $0 == "/" || $0 == "." })
                guard parts.count == 3 else { continue }
                found[last].notify = switch parts[0] {
                case "none": UInt32(SIGEV_NONE)
                case "thread": UInt32(SIGEV_THREAD)
                default: UInt32(SIGEV_SIGNAL)
                }
                if parts[1] == "tid" {
                    found[last].notify |= 4  // SIGEV_THREAD_ID
                    found[last].thread = Int32(parts[2])
                }
            } else if line.hasPrefix("ClockID:") {
                found[last].clock = Int32(value) ?? 0
            }
        }
        return found
    }

    /// Whether this kernel makes timers with a wanted id (prctl(2) PR_TIMER_CREATE_RESTORE_IDS, Linux 6.15).
    private static let kernelTakesIDs = (try? Syscall.call("prctl(PR_TIMER_CREATE_RESTORE_IDS)", SYS_prctl, 77, 2)) != nil

    static func restore(_ timers: [PosixTimerEntry], takesIDs: Bool = kernelTakesIDs, into batch: inout Batch) throws {
        if timers.isEmpty { return }
        if takesIDs { batch.call("prctl(PR_TIMER_CREATE_RESTORE_IDS)", SYS_prctl, 77, 1, 0, 0, 0) }
        var next: Int64 = 0
        let queueing = queueing(timers)
        for timer in timers.sorted(by: { $0.itID < $1.itID }) {
            let subject = CheckpointError.Subject.object("POSIX timer \(timer.itID)")
            guard timer.itID <= UInt32(Int32.max) else { throw CheckpointError("restore", subject, "the id is not a timer's") }
            guard timer.insec < 1_000_000_000, timer.vnsec < 1_000_000_000 else {
                throw CheckpointError("restore", subject, "\(max(timer.insec, timer.vnsec)) is not a number of nanoseconds below a second")
            }
            let id = Int64(timer.itID)
            if !takesIDs {
                // Older kernels count up for every timer that a process makes (kernel/time/posix-timers.c, posix_timer_add).
                let unused = id - next
                guard unused >= 0, unused * 2 + 8 < batch.room else {
                    throw CheckpointError("restore", subject, "this kernel can't make a timer with that id", remedy: "restore with Linux 6.15 or newer")
                }
                var filler = PosixTimerEntry()
                (filler.clockID, filler.itSigevNotify) = (1, UInt32(SIGEV_NONE))
                for number in next..<id {
                    create(filler, wanting: 0, &batch)
                    batch.call("timer_delete", SYS_timer_delete, .init(number))
                }
            }
            next = id + 1
            create(timer, wanting: UInt32(id), &batch)
            var value = (timer.vsec, timer.vnsec)
            if value == (0, 0) { value = (timer.isec, timer.insec) }  // it fired as it was read
            if queueing.contains(timer.itID) { value = (0, 1) }
            if value == (0, 0) { continue }
            let setting = batch.words([timer.isec, timer.insec, value.0, value.1])
            batch.call("timer_settime", SYS_timer_settime, .init(id), 0, setting.argument, 0)
        }
        if takesIDs { batch.call("prctl(PR_TIMER_CREATE_RESTORE_IDS)", SYS_prctl, 77, 0, 0, 0, 0) }
    }

    /// struct sigevent (sigevent(7)): value, signal, how, thread.
    private static func create(_ timer: PosixTimerEntry, wanting id: UInt32, _ batch: inout Batch) {
        var event = [UInt8](repeating: 0, count: 64)
        event.put(timer.sivalPtr, at: 0)
        event.put(timer.siSigno, at: 8)
        event.put(timer.itSigevNotify, at: 12)
        if timer.hasNotifyThreadID { event.put(timer.notifyThreadID, at: 16) }
        let wanted = batch.bytes([UInt8](repeating: 0, count: 4).storing(id))
        batch.call("timer_create", SYS_timer_create, .init(Int32(bitPattern: timer.clockID)), batch.bytes(event).argument, wanted.argument)
    }
}

extension [UInt8] {
    fileprivate func storing(_ word: UInt32) -> [UInt8] {
        var copy = self
        copy.put(word, at: 0)
        return copy
    }
}
