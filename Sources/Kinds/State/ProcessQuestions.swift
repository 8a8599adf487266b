import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// What a process is asked when it is dumped, in the batch that its leader runs: everything that is not memory, files or place in the tree.
package struct ProcessQuestions {
    private let process: ThreadID
    private let actions: SignalActions, intervalTimers: IntervalTimers, posixTimers: PosixTimers, limits: ResourceLimits
    private let subreaper: Batch.Buffer
    private let dumpable: Batch.Call, hugePages: Batch.Call, membarrier: Batch.Call, denyWriteExecute: Batch.Call, personality: Batch.Call, dataBreak: Batch.Call

    package init(_ batch: inout Batch, process: ThreadID) throws {
        self.process = process
        actions = SignalActions(&batch)
        intervalTimers = IntervalTimers(&batch)
        posixTimers = try PosixTimers(&batch, process: process)
        limits = ResourceLimits(&batch)
        subreaper = batch.output(4)
        batch.call("prctl(PR_GET_CHILD_SUBREAPER)", SYS_prctl, .init(PR_GET_CHILD_SUBREAPER), subreaper.argument, 0, 0, 0)
        dumpable = batch.call("prctl(PR_GET_DUMPABLE)", SYS_prctl, .init(PR_GET_DUMPABLE), 0, 0, 0, 0)
        hugePages = batch.call("prctl(PR_GET_THP_DISABLE)", SYS_prctl, .init(PR_GET_THP_DISABLE), 0, 0, 0, 0, mayFail: true)
        membarrier = batch.call("membarrier", SYS_membarrier, .init(1 << 9 /* MEMBARRIER_CMD_GET_REGISTRATIONS */), 0, 0, mayFail: true)
        denyWriteExecute = batch.call("prctl(PR_GET_MDWE)", SYS_prctl, 66, 0, 0, 0, 0, mayFail: true)
        personality = batch.call("personality", SYS_personality, .init(UInt32.max))
        dataBreak = batch.call("brk", SYS_brk, 0)
    }

    /// Fills in all of `tc` but state, exit code, flags, blocked signals and name; of `mm` the heap's end, dumpable and huge pages.
    package func fill(_ tc: inout TaskCoreEntry, _ mm: inout MmEntry, _ batch: Batch) throws {
        tc.sigactions = actions.answer(batch)
        var timers = TaskTimersEntry()
        intervalTimers.answer(batch, into: &timers)
        timers.posix = posixTimers.answer(batch)
        tc.signalsS = try PendingSignals.dump(of: process, shared: true)
        PosixTimers.markPending(&timers.posix, shared: tc.signalsS)
        tc.timers = timers
        tc.rlimits = limits.answer(batch)
        tc.childSubreaper = batch.word32(of: subreaper) != 0
        if batch.result(membarrier) > 0 { tc.membarrierRegistrationMask = UInt32(truncatingIfNeeded: batch.result(membarrier)) }
        if batch.result(denyWriteExecute) > 0 { tc.stasis.mdwe = UInt32(truncatingIfNeeded: batch.result(denyWriteExecute)) }
        if batch.result(personality) > 0 { tc.stasis.personality = UInt64(batch.result(personality)) }
        if batch.result(hugePages) > 1 { tc.stasis.thpDisableFlags = UInt32(truncatingIfNeeded: batch.result(hugePages)) }
        try ProcessAttributes.dump(of: process, into: &tc)
        mm.dumpable = Int32(truncatingIfNeeded: batch.result(dumpable))
        mm.thpDisabled = batch.result(hugePages) > 0
        mm.mmBrk = UInt64(bitPattern: Int64(batch.result(dataBreak)))
    }
}
