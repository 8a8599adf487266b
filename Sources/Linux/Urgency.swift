import CLinux

/// Real-time priority for this thread (SCHED_FIFO, sched(7)), where it has none: while it lasts nobody else's work comes in between.
public final class Urgency {
    private let isOurs: Bool

    /// Does nothing where that is not allowed. What is forked meanwhile does not have it (SCHED_RESET_ON_FORK).
    public init() {
        var priority: Int32 = 1
        let usual = try? Syscall.call("sched_getscheduler", SYS_sched_getscheduler)
        isOurs = usual == 0 && (try? Syscall.call("sched_setscheduler", SYS_sched_setscheduler, value: &priority, at: 2, 0, 0x4000_0001)) != nil
    }
    deinit {
        guard isOurs else { return }
        var priority: Int32 = 0
        _ = try? Syscall.call("sched_setscheduler", SYS_sched_setscheduler, value: &priority, at: 2, 0, 0)
    }
}
