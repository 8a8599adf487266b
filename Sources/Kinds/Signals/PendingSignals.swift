import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// Signals that wait for a thread or for its process, in the order of their queues.
package enum PendingSignals {
    static func dump(of thread: ThreadID, shared: Bool) throws(SyscallError) -> SignalQueueEntry {
        var queue = SignalQueueEntry()
        queue.signals = try TracedTask.pendingSignals(of: thread, shared: shared).map { SiginfoEntry(bytes: $0) }
        return queue
    }

    /// Signals that a graft may end its batches with (GraftedTask): queued in a batch, one of them would end it.
    private static let parking: Set<Int32> = [SIGURG, SIGWINCH, SIGCHLD, SIGCONT]

    /// Queues the signals again. Only the task itself may claim that the kernel or another process sent them
    /// (kernel/signal.c, do_rt_sigqueueinfo): the process's must be queued by its leader, a thread's by the thread.
    /// Every thread of the process has them blocked now.
    /// - Parameter timers: ids of timers that have queued theirs again by themselves.
    static func restore(_ queue: SignalQueueEntry, to target: Target, timers: Set<UInt32> = [], into batch: inout Batch) throws {
        for (number, info) in try checked(queue) where !parking.contains(number) {
            if let timer = timer(info), timers.contains(timer) { continue }
            let buffer = batch.bytes(info)
            switch target {
            case .process(let process):
                batch.call("rt_sigqueueinfo", SYS_rt_sigqueueinfo, .init(process), .init(number), buffer.argument)
            case .thread(let thread, let process):
                batch.call("rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, .init(process), .init(thread), .init(number), buffer.argument)
            }
        }
    }
    /// The POSIX timer that a siginfo comes from (sigaction(2), SI_TIMER, si_timerid).
    static func timer(_ info: [UInt8]) -> UInt32? {
        info.count == 128 && info.word(Int32.self, at: 8) == Int32(SI_TIMER) ? info.word(UInt32.self, at: 16) : nil
    }
    /// Whether a signal would end a batch.
    static func ends(_ number: UInt32) -> Bool { Int32(exactly: number).map(parking.contains) ?? false }

    /// Ids as the task sees them.
    enum Target { case process(Int32), thread(Int32, of: Int32) }

    /// Queues what `restore` left out. The last thing before the final registers, after the last batch of every thread of
    /// the process: the signals stay blocked from here on, so that no batch could end any more.
    package static func restoreLast(_ core: CoreEntry, isLeader: Bool, thread: ThreadID, process: ThreadID, in grafted: GraftedTask) throws {
        var left: [(target: Target, number: Int32, info: [UInt8])] = []
        if isLeader { left += try checked(core.tc.signalsS).filter { parking.contains($0.number) }.map { (.process(process.rawValue), $0.number, $0.info) } }
        left += try checked(core.threadCore.signalsP).filter { parking.contains($0.number) }
            .map { (.thread(thread.rawValue, of: process.rawValue), $0.number, $0.info) }
        if left.isEmpty { return }
        try grafted.task.setSignalMask(.max)
        var batch = grafted.batch()
        let buffer = batch.output(128)
        for (target, number, info) in left {
            try grafted.memory.write(info, at: buffer.address)
            let result = switch target {
            case .process(let id):
                try grafted.step(SYS_rt_sigqueueinfo, UInt64(id), UInt64(number), buffer.address)
            case .thread(let id, let process):
                try grafted.step(SYS_rt_tgsigqueueinfo, UInt64(process), UInt64(id), UInt64(number), buffer.address)
            }
            if result < 0 { throw SyscallError("rt_sigqueueinfo", .remote(task: grafted.task.id, what: "signal \(number)"), Int32(-result)) }
        }
    }

    private static func checked(_ queue: SignalQueueEntry) throws -> [(number: Int32, info: [UInt8])] {
        try queue.signals.map { entry in
            let info = entry.bytes
            guard info.count == 128 else { throw CheckpointError("restore", .object("pending signals"), "a siginfo has \(info.count) bytes instead of 128") }
            let number = info.word(Int32.self, at: 0)
            guard (1...64).contains(number) else { throw CheckpointError("restore", .object("pending signals"), "there is no signal \(number)") }
            return (number, info)
        }.filter { $0.number != SIGKILL && $0.number != SIGSTOP }  // can't be blocked: they would act in the middle of the restore
    }
}
