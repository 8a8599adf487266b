import CLinux
import Glibc
public import Linux

/// The memory that a restored task works from until it runs: grafts in the first page, scratch behind it, at an address that
/// is free in every task of the tree. A copy of a task (clone3) has a copy of it.
public enum Workspace {
    static let flags = UInt64(0x22 | 0x100000)  // MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    static let codePage = 4096
    /// Scratch memory of a helper, at the workspace's end.
    static let helperSize = 256 << 10

    /// Maps the workspace in a stub that stands in a stop, and puts the stub into its graft.
    public static func make(in stub: TracedTask, at address: UInt64, size: Int = Stub.workspaceSize) throws(SyscallError) -> GraftedTask {
        // The stub's own `syscall` instruction maps the first memory: entered and left by stops.
        var registers = try stub.registers()
        let syscall = registers.rip - (registers.rip & 0xfff) + 64 + 56 + 5
        (registers.rax, registers.orig_rax, registers.rip) = (UInt64(SYS_mmap), UInt64.max, syscall)
        (registers.rdi, registers.rsi, registers.rdx) = (address, UInt64(size), 7)
        (registers.r10, registers.r8, registers.r9) = (flags, UInt64.max, 0)
        try stub.setRegisters(registers)
        try stub.continueToSystemCall()
        var entered = false
        while true {
            guard case .systemCall = try stub.wait()! else { try stub.continueToSystemCall(); continue }
            if entered { break }
            entered = true
            try stub.continueToSystemCall()
        }
        let answer = Int64(bitPattern: try stub.registers().rax)
        guard answer == Int64(address) else { throw SyscallError("mmap", .remote(task: stub.id, what: "workspace"), answer < 0 ? Int32(-answer) : EEXIST) }
        return try enter(stub, of: stub.id, at: address, size: size)
    }

    /// The memory that has to go before the task runs.
    public static func range(of task: GraftedTask) -> Range<UInt64> { task.base..<(task.base + UInt64(codePage + task.layout.size + helperSize)) }

    /// Puts a stopped task that has the workspace in its memory into the graft.
    /// - Parameter caught: signals that the process catches already; none before its actions are restored.
    public static func enter(_ task: TracedTask, of process: ThreadID, at address: UInt64, size: Int = Stub.workspaceSize, caught: UInt64 = 0, virtual: (tgid: Int32, tid: Int32)? = nil) throws(SyscallError) -> GraftedTask {
        let slot = GraftSlot(base: address, memory: .workspace(RemoteMemory(of: task.id)))
        let scratch = ScratchLayout(base: address + UInt64(codePage), size: size - codePage - helperSize)
        return try GraftedTask(entering: task, of: process, slot: slot, scratch: scratch, caught: caught, numbers: virtual)
    }

    /// A second thread of the process for a while, in a graft and scratch memory of its own: for work that two do sooner than one.
    public static func makeHelper(of leader: GraftedTask) throws(SyscallError) -> GraftedTask {
        var batch = leader.batch()
        // CLONE_VM | FS | FILES | SIGHAND | PTRACE | THREAD | SYSVSEM
        let arguments = batch.words([0x100 | 0x200 | 0x400 | 0x800 | 0x2000 | 0x10000 | 0x40000, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        let call = batch.call("clone3", SYS_clone3, arguments.argument, .init(arguments.count))
        try leader.run(&batch)
        let task = TracedTask.adopt(ThreadID(Int32(batch.result(call))))
        try task.waitForFirstStop()
        let slot = GraftSlot(base: leader.base + UInt64(codePage / 2), memory: .workspace(RemoteMemory(of: task.id)))
        let scratch = ScratchLayout(base: leader.layout.base + UInt64(leader.layout.size), size: helperSize)
        return try GraftedTask(entering: task, of: leader.process, slot: slot, scratch: scratch, caught: 0)
    }
}
