import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// What a thread is asked when it is dumped, in a batch that it runs itself.
package struct ThreadQuestions {
    private let thread: ThreadID
    private let stack: AlternateStack, credentials: Credentials, scheduling: Scheduling
    private let name: Batch.Buffer, robustList: Batch.Buffer, clearAddress: Batch.Buffer, parentDeath: Batch.Buffer
    private let clearAddressKnown: Batch.Call
    private let seccompMode: UInt64

    /// - Parameter status: of the thread.
    package init(_ batch: inout Batch, thread: ThreadID, status: KeyedLines) {
        self.thread = thread
        seccompMode = status.decimal("Seccomp") ?? 0
        stack = AlternateStack(&batch)
        credentials = Credentials(&batch, thread: thread, status: status)
        scheduling = Scheduling(&batch)
        name = batch.output(16)
        batch.call("prctl(PR_GET_NAME)", SYS_prctl, .init(PR_GET_NAME), name.argument, 0, 0, 0)
        robustList = batch.output(16)
        batch.call("get_robust_list", SYS_get_robust_list, 0, .init(robustList.address), .init(robustList.address + 8))
        clearAddress = batch.output(8)
        clearAddressKnown = batch.call("prctl(PR_GET_TID_ADDRESS)", SYS_prctl, .init(PR_GET_TID_ADDRESS), clearAddress.argument, 0, 0, 0, mayFail: true)
        parentDeath = batch.output(4)
        batch.call("prctl(PR_GET_PDEATHSIG)", SYS_prctl, .init(PR_GET_PDEATHSIG), parentDeath.argument, 0, 0, 0)
    }

    /// Fills in all of `core` but blocked signals, rseq, filters and cgroup set; of `info` the address to clear at exit.
    package func fill(_ core: inout ThreadCoreEntry, _ info: inout ThreadInfoX86, _ batch: Batch) throws {
        core.sas = stack.answer(batch)
        core.creds = try credentials.answer(batch)
        scheduling.answer(batch, into: &core)
        core.comm = String(decoding: batch.bytes(of: name).prefix { $0 != 0 }, as: UTF8.self)
        let head = batch.word(of: robustList)
        (core.futexRla, core.futexRlaLen) = (head, head == 0 ? 0 : batch.word32(of: robustList, 2))
        if batch.result(clearAddressKnown) < 0 {
            throw CheckpointError("dump", .task(thread), "the kernel does not tell its set_tid_address(2)", remedy: "use a kernel with CONFIG_CHECKPOINT_RESTORE")
        }
        info.clearTidAddr_p = batch.word(of: clearAddress)
        if batch.word32(of: parentDeath) != 0 { core.pdeathSig = batch.word32(of: parentDeath) }
        core.signalsP = try PendingSignals.dump(of: thread, shared: false)
        switch seccompMode {
        case 1: core.seccompMode = .strict
        case 2: core.seccompMode = .filter
        default: break
        }
    }
}
