import CLinux
import Glibc
public import Linux

extension ProcessGraft {
    /// A copy of the process as it stands, with memory that is shared until one of them writes (clone(2)), for work that can wait until the
    /// process runs again. The copy stands in its own graft, has no descriptors, dies with us, and is nobody's child that the program knows of:
    /// its parent is a helper that has ended, and whoever takes orphans in takes note of its end.
    /// What fork(2) does not copy it does not have: memory under MADV_DONTFORK or MADV_WIPEONFORK, and what is shared changes on.
    /// A thread of the process must be in the graft. A helper that has just been born would run on were we killed in that moment (Foreground.holding).
    public func copyProcess() throws(SyscallError) -> GraftedTask {
        guard let (leader, index) = current else { preconditionFailure("no thread is in the graft") }
        let place = slots[1 - index]
        // Shares the memory for this moment (CLONE_VM), and says nothing when it ends (exit signal 0).
        let helper = try newTask(by: leader, flags: 0x100)
        defer { try? reap(helper, by: leader) }
        let working = try enter(helper, place)
        var batch = working.batch()
        batch.call("close_range", SYS_close_range, 0, .init(UInt32.max), 0)
        try working.run(&batch)
        let task = try newTask(by: working, flags: 0)
        do throws(SyscallError) {
            let copy = try enter(task, GraftSlot(base: place.base, memory: .code(try FileDescriptor.open("/proc/\(task.id)/mem", O_RDWR))))
            try working.exit()
            return copy
        } catch {
            task.kill()
            throw error
        }
    }

    private func enter(_ task: TracedTask, _ slot: GraftSlot) throws(SyscallError) -> GraftedTask {
        try GraftedTask(entering: task, of: task.id, slot: slot, scratch: scratch, caught: caught)
    }

    private func newTask(by maker: GraftedTask, flags: UInt64) throws(SyscallError) -> TracedTask {
        var batch = maker.batch()
        let arguments = batch.words([flags | 0x2000 /* CLONE_PTRACE */, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        let call = batch.call("clone3", SYS_clone3, arguments.argument, .init(arguments.count))
        try maker.run(&batch)
        let task = TracedTask.adopt(ThreadID(Int32(batch.result(call))))
        do throws(SyscallError) {
            try task.waitForFirstStop()
            try task.setOptions([.systemCallsMarked, .killWithTracer])
            return task
        } catch {
            // Let go, it would run the program a second time.
            task.kill()
            throw error
        }
    }

    /// Whether it has ended by itself or something has failed.
    private func reap(_ helper: TracedTask, by leader: GraftedTask) throws(SyscallError) {
        helper.kill()
        var batch = leader.batch()
        batch.call("wait4", SYS_wait4, .init(helper.id.rawValue), 0, 0x4000_0000 /* __WALL */, 0)
        try leader.run(&batch)
    }
}
