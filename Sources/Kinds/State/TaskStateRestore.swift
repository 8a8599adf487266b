import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// The state of a task from its images, as calls in batches that it runs as root with every capability. In the order of a restore.
package enum TaskStateRestore {
    /// Before anything else of a process: what we write from outside, as ourselves.
    package static func byConductor(_ tc: TaskCoreEntry, of process: ThreadID, _ context: RestoreContext) throws {
        try CheckpointError.about("restore the attributes of", .task(process)) {
            try ProcessAttributes.restore(tc, to: process) { context.log.warn($0) }
        }
    }

    /// In each thread, when memory is in place: rseq(2) writes into it at once, the other addresses at the thread's end.
    package static func threadEarly(_ core: CoreEntry, _ batch: inout Batch) throws {
        let info = core.threadInfo, thread = core.threadCore
        let comm = thread.hasComm ? thread.comm : core.tc.comm
        batch.call("prctl(PR_SET_NAME)", SYS_prctl, .init(PR_SET_NAME), batch.string(String(decoding: comm.utf8.prefix(15), as: UTF8.self)), 0, 0, 0)
        if thread.hasSas { AlternateStack.restore(thread.sas, into: &batch) }
        if thread.futexRla != 0 { batch.call("set_robust_list", SYS_set_robust_list, .init(thread.futexRla), .init(thread.futexRlaLen)) }
        batch.call("set_tid_address", SYS_set_tid_address, .init(info.clearTidAddr_p))
        if thread.hasRseqEntry, thread.rseqEntry.rseqAbiPointer != 0 {
            let rseq = thread.rseqEntry
            batch.call("rseq", SYS_rseq, .init(rseq.rseqAbiPointer), .init(rseq.rseqAbiSize), 0, .init(rseq.signature))
        }
    }

    /// In the leader, when memory is in place. Signal actions belong to a table that processes may share: the first one sets it.
    package static func processEarly(_ core: CoreEntry, _ mm: MmEntry, _ batch: inout Batch) throws {
        let tc = core.tc
        try SignalActions.restore(tc.sigactions, into: &batch)
        // Before children are made or after: the kernel tells existing descendants (kernel/sys.c, PR_SET_CHILD_SUBREAPER).
        if tc.childSubreaper { batch.call("prctl(PR_SET_CHILD_SUBREAPER)", SYS_prctl, .init(PR_SET_CHILD_SUBREAPER), 1, 0, 0, 0) }
        if mm.thpDisabled {
            // Since Linux 6.18 PR_GET_THP_DISABLE answers 1 with the flags beside it (kernel/sys.c, prctl_get_thp_disable).
            let flags = tc.hasStasis && tc.stasis.hasThpDisableFlags ? UInt64(tc.stasis.thpDisableFlags & ~1) : 0
            batch.call("prctl(PR_SET_THP_DISABLE)", SYS_prctl, .init(PR_SET_THP_DISABLE), 1, .init(flags), 0, 0)
        }
        // Registrations are bits that are the commands themselves (membarrier(2)); others of a wrong image are left out.
        let registrations: [UInt32] = [1 << 2, 1 << 4, 1 << 6, 1 << 8]
        for command in registrations where tc.membarrierRegistrationMask & command != 0 {
            batch.call("membarrier", SYS_membarrier, .init(command), 0, 0)
        }
        // Not settable from outside. Nothing is lost where the kernel refuses: the id is a mark for audit logs only.
        if tc.hasLoginuid, tc.loginuid != UInt32.max {
            let file = batch.call("openat(/proc/self/loginuid)", SYS_openat, .init(AT_FDCWD), batch.string("/proc/self/loginuid"), .init(O_WRONLY), mayFail: true)
            let text = batch.bytes(Array("\(tc.loginuid)".utf8))
            batch.call("write(/proc/self/loginuid)", SYS_write, .result(file), text.argument, .init(text.count), mayFail: true)
            batch.call("close", SYS_close, .result(file), mayFail: true)
        }
    }

    /// In the leader, when all threads exist (timers name them) and nothing is mapped any more.
    package static func processLate(_ core: CoreEntry, _ mm: MmEntry, _ batch: inout Batch) throws {
        let tc = core.tc
        try IntervalTimers.restore(tc.timers, into: &batch)
        try PosixTimers.restore(tc.timers.posix, into: &batch)
        // From here no mapping may be made executable any more.
        if tc.hasStasis, tc.stasis.hasMdwe { batch.call("prctl(PR_SET_MDWE)", SYS_prctl, 65, .init(tc.stasis.mdwe), 0, 0, 0) }
    }

    /// The last batch of a thread; the leader's comes after those of all other threads.
    ///
    /// Signals come before the limit on their number. Priorities and limits come before credentials, which are what allows them; filters
    /// come between credentials' steps. The parent-death signal and "dumpable" come last, since a change of credentials clears them (kernel/cred.c,
    /// commit_creds).
    /// - Parameters:
    ///   - leader: the core of the process's leader: `core` itself for that one.
    ///   - thread, process: the ids as the thread sees them itself.
    ///   - filters: seccomp.img.
    package static func threadLate(
        _ core: CoreEntry, leader: CoreEntry, mm: MmEntry, isLeader: Bool, thread: ThreadID, process: ThreadID, filters: SeccompEntry,
        _ context: RestoreContext, _ batch: inout Batch
    ) throws {
        let state = core.threadCore
        let timers = PosixTimers.queueing(leader.tc.timers.posix)
        if isLeader { try PendingSignals.restore(core.tc.signalsS, to: .process(process.rawValue), timers: timers, into: &batch) }
        try PendingSignals.restore(state.signalsP, to: .thread(thread.rawValue, of: process.rawValue), timers: timers, into: &batch)
        if leader.tc.hasStasis, leader.tc.stasis.hasPersonality {
            batch.call("personality", SYS_personality, .init(leader.tc.stasis.personality & 0xffff_ffff))
        }
        try Scheduling.restore(state, into: &batch)
        if isLeader, core.tc.hasRlimits {
            try ResourceLimits.restore(core.tc.rlimits, ceiling: ResourceLimits.ceiling, log: { context.log.warn($0) }, into: &batch)
        }
        guard state.hasCreds else { throw CheckpointError("restore", .task(thread), "its core image has no credentials") }
        try Credentials.restore(state.creds, into: &batch) { batch in
            try Seccomp.restore(state, filters, leader: isLeader, into: &batch)
        }
        if state.hasPdeathSig, state.pdeathSig != 0 {
            guard state.pdeathSig <= 64 else { throw CheckpointError("restore", .task(thread), "there is no signal \(state.pdeathSig)") }
            batch.call("prctl(PR_SET_PDEATHSIG)", SYS_prctl, .init(PR_SET_PDEATHSIG), .init(state.pdeathSig), 0, 0, 0)
        }
        if isLeader, mm.hasDumpable, mm.dumpable == 0 || mm.dumpable == 1 {
            batch.call("prctl(PR_SET_DUMPABLE)", SYS_prctl, .init(PR_SET_DUMPABLE), .init(mm.dumpable), 0, 0, 0)
        }
    }
}
