import CLinux
import Glibc
import Graft
import ImageMessages
import Kinds
import Linux

/// The state of one process and its threads, set when its memory and files are there. Its graft is gone afterwards.
struct StateRestorer {
    let process: RestoringProcess
    let images: ProcessImages
    let filters: SeccompEntry
    let context: RestoreContext

    func restore(cgroups: CgroupRestore) throws {
        let core = images.core
        try TaskStateRestore.byConductor(core.tc, of: process.pid, context)
        try process.run { batch in
            try TaskStateRestore.processEarly(core, images.mm, &batch)
            try TaskStateRestore.threadEarly(core, &batch)
        }
        try process.makeThreads()
        try place(cgroups)
        let caught = process.threads.isEmpty ? 0 : try GraftedTask.caughtSignals(of: process.pid)
        for (index, thread) in process.threads.enumerated() { try restoreThread(thread, images.threads[index].core, caught: caught) }
        if !process.threads.isEmpty { try process.grafted.takeOver() }
        try process.run { batch in
            // SIGCHLD of helpers, zombies and stopped children is not the program's to see.
            let child = batch.words([1 << UInt64(SIGCHLD - 1)]), now = batch.words([0, 0])
            batch.call("rt_sigtimedwait", SYS_rt_sigtimedwait, child.argument, 0, now.argument, 8, mayFail: true)
            try TaskStateRestore.processLate(core, images.mm, &batch)
            try late(core, isLeader: true, thread: process.pid, &batch)
        }
        try PendingSignals.restoreLast(core, isLeader: true, thread: process.pid, process: process.pid, in: process.grafted)
        let sleep = images.endedLeader == nil ? try SleepRestore.begin(core, in: process.grafted) : .none
        let workspace = Workspace.range(of: process.grafted)
        let answer = try process.grafted.step(SYS_munmap, workspace.lowerBound, UInt64(workspace.count))
        if answer < 0 { throw SyscallError("munmap", .task(process.pid), Int32(-answer)) }
        if let status = images.endedLeader { try letEnd(status) } else {
            try RestoredRegisters.apply(core.threadInfo, interrupted: interrupted(core), mask: core.tc.blkSigset, sleep: sleep, to: process.grafted.task)
        }
        if core.tc.taskState == 3 { try stop(core.tc.stopSigno > 0 ? Int32(core.tc.stopSigno) : SIGSTOP) }
    }

    private func restoreThread(_ thread: (id: ThreadID, task: TracedTask), _ core: CoreEntry, caught: UInt64) throws {
        let grafted = try Workspace.enter(thread.task, of: process.pid, at: process.grafted.base, caught: caught)
        var batch = grafted.batch()
        try TaskStateRestore.threadEarly(core, &batch)
        try late(core, isLeader: false, thread: thread.id, &batch)
        try grafted.run(&batch)
        try PendingSignals.restoreLast(core, isLeader: false, thread: thread.id, process: process.pid, in: grafted)
        let sleep = try SleepRestore.begin(core, in: grafted)
        try RestoredRegisters.apply(core.threadInfo, interrupted: interrupted(core), mask: core.threadCore.blkSigset, sleep: sleep, to: thread.task)
    }
    private func interrupted(_ core: CoreEntry) -> UInt64? { core.threadCore.hasStasis && core.threadCore.stasis.hasRawAx && !core.threadCore.stasis.hasRestartNr ? core.threadCore.stasis.rawAx : nil }

    private func late(_ core: CoreEntry, isLeader: Bool, thread: ThreadID, _ batch: inout Batch) throws {
        try TaskStateRestore.threadLate(
            core, leader: images.core, mm: images.mm, isLeader: isLeader, thread: thread, process: process.pid, filters: filters, context, &batch)
    }

    /// Threads begin in the groups of their process, which stands in its own since it was made.
    private func place(_ cgroups: CgroupRestore) throws {
        guard let leader = images.cgroupSet else { return }
        for (thread, image) in zip(process.threads, images.threads) where image.core.threadCore.hasCgSet {
            try cgroups.move(thread.id, to: image.core.threadCore.cgSet, from: leader, isThread: true)
        }
    }

    /// A leader that ended before its threads ends again, as soon as it is let go: it stands before a system call of the vDSO, the only code
    /// that is there for sure, and the call is exit(2).
    private func letEnd(_ status: Int32) throws {
        guard let code = process.special.first(where: \.isCode), let call = VDSO.ofThisKernel?.systemCall else {
            throw CheckpointError("restore", .task(process.pid), "its first thread has ended, which can't be made again in a process without vDSO")
        }
        var registers = process.grafted.saved
        (registers.rip, registers.rax, registers.orig_rax) = (code.address + call, UInt64(SYS_exit), UInt64.max)
        registers.rdi = UInt64((status >> 8) & 0xff)
        try process.grafted.task.setRegisters(registers)
        try process.grafted.task.setSignalMask(UInt64.max)
    }

    /// A stopped process stops again before its first instruction. Other signals wait until it goes on.
    private func stop(_ signal: Int32) throws {
        let task = process.grafted.task, mask = try task.signalMask()
        try task.setSignalMask(~(1 << UInt64(signal - 1)))
        _ = kill(process.pid.rawValue, signal)
        try task.continue()
        while true {
            switch try task.wait()! {
            case .signal(let got): try task.continue(signal: got)
            case .stopped(let got) where got != SIGTRAP: return try task.setSignalMask(mask)
            case .exited, .killed: throw SyscallError("stop", .task(process.pid), ESRCH)
            default: try task.continue()
            }
        }
    }
}
