import CLinux
import Glibc
import Graft
import ImageMessages
import Linux

/// How a thread is scheduled: policy, nice value, priority, CPUs, I/O priority, timer slack (sched(7), ioprio_set(2), prctl(2)).
package struct Scheduling {
    private static let normal: UInt32 = 0, fifo: UInt32 = 1, roundRobin: UInt32 = 2, deadline: UInt32 = 6, resetOnFork: UInt32 = 0x4000_0000
    private static let defaultTimerSlack = 50_000, maximumMaskBytes = 1024
    private let attributes: Batch.Buffer, nice: Batch.Call
    private let affinity: Batch.Buffer, affinityBytes: Batch.Call
    private let ioPriority: Batch.Call, timerSlack: Batch.Call

    init(_ batch: inout Batch) {
        attributes = batch.output(MemoryLayout<clinux_sched_attr>.size)
        batch.call("sched_getattr", SYS_sched_getattr, 0, attributes.argument, .init(attributes.count), 0)
        nice = batch.call("getpriority", SYS_getpriority, 0, 0)
        affinity = batch.output(Self.maximumMaskBytes)
        affinityBytes = batch.call("sched_getaffinity", SYS_sched_getaffinity, 0, .init(affinity.count), affinity.argument, mayFail: true)
        ioPriority = batch.call("ioprio_get", SYS_ioprio_get, 1, 0, mayFail: true)
        timerSlack = batch.call("prctl(PR_GET_TIMERSLACK)", SYS_prctl, .init(PR_GET_TIMERSLACK), 0, 0, 0, 0, mayFail: true)
    }

    func answer(_ batch: Batch, into core: inout ThreadCoreEntry) {
        let bytes = batch.bytes(of: attributes)
        let policy: UInt32 = bytes.word(at: 4), flags: UInt64 = bytes.word(at: 8)
        core.schedPolicy = policy | (flags & 1 != 0 ? Self.resetOnFork : 0)
        core.schedNice = Int32(20 - batch.result(nice))  // the system call answers 20 - nice (getpriority(2), C library/kernel differences)
        if policy == Self.fifo || policy == Self.roundRobin { core.schedPrio = bytes.word(at: 20) }
        if policy == Self.deadline {
            (core.stasis.schedRuntime, core.stasis.schedDeadline, core.stasis.schedPeriod) = (bytes.word(at: 24), bytes.word(at: 32), bytes.word(at: 40))
        }
        let size = batch.result(affinityBytes)
        if size > 0 {
            let words: [UInt64] = batch.bytes(of: affinity).words(in: 0..<min(size & ~7, affinity.count))
            // A thread that may run anywhere here shall do so elsewhere, too.
            if Self.allowedBits(words) < Self.onlineCPUs { core.stasis.cpuAffinity = Self.withoutTrailingZeros(words) }
        }
        if batch.result(ioPriority) > 0 { core.stasis.ioPriority = UInt32(batch.result(ioPriority)) }
        let slack = batch.result(timerSlack)
        if slack > 0, slack != Self.defaultTimerSlack { core.stasis.timerslackNs = UInt64(slack) }
    }

    private static func allowedBits(_ words: [UInt64]) -> Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }
    private static func withoutTrailingZeros(_ words: [UInt64]) -> [UInt64] {
        var words = words
        while words.last == 0 { words.removeLast() }
        return words
    }
    private static let onlineCPUs = Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))

    /// Before credentials, as raising a priority needs CAP_SYS_NICE; late, as a low one would slow the restore down.
    static func restore(_ core: ThreadCoreEntry, into batch: inout Batch) throws {
        if core.hasSchedNice {
            guard (-20...19).contains(core.schedNice) else { throw CheckpointError("restore", .object("the nice value"), "\(core.schedNice) is none") }
            batch.call("setpriority", SYS_setpriority, 0, 0, .init(core.schedNice))
        }
        if core.hasStasis {
            if !core.stasis.cpuAffinity.isEmpty, core.stasis.cpuAffinity.count <= maximumMaskBytes / 8 {
                let mask = batch.words(core.stasis.cpuAffinity)
                // CPUs that this machine does not have can't be insisted on.
                batch.call("sched_setaffinity", SYS_sched_setaffinity, 0, .init(mask.count), mask.argument, mayFail: true)
            }
            if core.stasis.hasIoPriority { batch.call("ioprio_set", SYS_ioprio_set, 1, 0, .init(core.stasis.ioPriority), mayFail: true) }
            if core.stasis.hasTimerslackNs {
                batch.call("prctl(PR_SET_TIMERSLACK)", SYS_prctl, .init(PR_SET_TIMERSLACK), .init(core.stasis.timerslackNs), 0, 0, 0, mayFail: true)
            }
        }
        let policy = core.schedPolicy & ~resetOnFork
        if core.schedPolicy == normal { return }
        if (policy == fifo || policy == roundRobin) && !(1...99).contains(core.schedPrio) {
            throw CheckpointError("restore", .object("the scheduling policy"), "\(core.schedPrio) is not a real-time priority")
        }
        var attributes = [UInt8](repeating: 0, count: MemoryLayout<clinux_sched_attr>.size)
        attributes.put(UInt32(attributes.count), at: 0)
        attributes.put(policy, at: 4)
        attributes.put(UInt64(core.schedPolicy & resetOnFork != 0 ? 1 : 0), at: 8)
        attributes.put(core.schedNice, at: 16)
        if policy == fifo || policy == roundRobin { attributes.put(core.schedPrio, at: 20) }
        if policy == deadline {
            // It may run on every CPU or not at all (sched_setattr(2), EPERM); a restore has held it on one.
            let everywhere = batch.words(Affinity.unrestricted)
            batch.call("sched_setaffinity", SYS_sched_setaffinity, 0, .init(everywhere.count), everywhere.argument, mayFail: true)
            attributes.put([core.stasis.schedRuntime, core.stasis.schedDeadline, core.stasis.schedPeriod], at: 24)
        }
        batch.call("sched_setattr", SYS_sched_setattr, 0, batch.bytes(attributes).argument, 0)
    }
}
