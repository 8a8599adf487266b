public import CLinux
import Glibc
public import Linux

/// A stopped task that runs batches for us. While it is grafted it stands in the graft's code; when this process dies the
/// graft cleans up and puts the task back where it was (README.md). One at a time in an address space.
public final class GraftedTask {
    public let task: TracedTask
    /// The thread group leader, the address of signals that are sent again.
    public let process: ThreadID
    public let memory: RemoteMemory
    let slot: GraftSlot
    let layout: ScratchLayout
    /// The registers and mask to put back, as they were when the task stopped.
    public let saved: Registers
    public let savedMask: UInt64
    private let parkSignal: Int32
    /// Signals that stopped the task in mid-batch and are sent again at the end (only SIGSTOP can, all else is blocked).
    private var postponed: [Int32] = []
    /// Where the graft's header lies: the beginning of a workspace.
    public var base: UInt64 { slot.base }
    private let header: clinux_graft_header

    /// Puts a task that stands in a ptrace stop into the graft at `slot`. From here on it is safe to die.
    init(entering task: TracedTask, of process: ThreadID, slot: GraftSlot, scratch: ScratchLayout, caught: UInt64, standing: (registers: Registers, mask: UInt64)? = nil, numbers: (tgid: Int32, tid: Int32)? = nil) throws(SyscallError) {
        (self.task, self.process, self.slot, layout) = (task, process, slot, scratch)
        memory = RemoteMemory(of: task.id)
        if let standing { (saved, savedMask) = standing } else { (saved, savedMask) = (try task.registersOutsideCriticalSection(), try task.signalMask()) }
        parkSignal = Self.chooseParkSignal(caught: caught, blocked: savedMask)
        var header = clinux_graft_header()
        header.batch = scratch.base
        (header.scratch, header.scratch_size) = (scratch.base, UInt64(scratch.size))
        header.tgid = UInt32(bitPattern: numbers?.tgid ?? process.rawValue)
        header.tid = UInt32(bitPattern: numbers?.tid ?? task.id.rawValue)
        header.signal = UInt32(parkSignal)
        header.mask = savedMask
        header.take(saved.restartedByHand())
        self.header = header
        try slot.write(header)
        // Registers first: from here an orphan restores itself, also its mask.
        try task.setRegisters(registers(at: clinux_graft_idle_offset()))
        try task.setSignalMask(~(1 << UInt64(parkSignal - 1)))
        try task.continue()
        try waitUntilParked()
    }

    public func batch() -> Batch { Batch(layout: layout) }

    /// Makes the graft this task's again, after another thread of its process has used it (during a restore).
    public func takeOver() throws(SyscallError) {
        try slot.write(header)
    }

    /// Runs the batch to its end and takes the results. Throws the first failure of a call that may not fail.
    public func run(_ batch: inout Batch) throws(SyscallError) {
        try start(&batch)
        try finish(&batch)
    }

    /// Sets the batch going without waiting, so that many tasks work at the same time.
    public func start(_ batch: inout Batch) throws(SyscallError) {
        try batch.write(to: memory)
        try enter()
        try task.continue()
    }

    public func finish(_ batch: inout Batch) throws(SyscallError) {
        try waitUntilParked()
        try batch.read(from: memory)
        if let failure = batch.failure(in: task.id) { throw failure }
    }

    /// Registers for running at `address` inside the graft.
    private func registers(at offset: Int) -> Registers {
        var registers = saved
        registers.rip = slot.base + UInt64(offset)
        (registers.orig_rax, registers.rax) = (UInt64.max, 0)
        (registers.rbx, registers.r14) = (slot.base, 0)
        registers.eflags &= ~0x500  // no single-stepping, string operations forward
        registers.cs = 0x33  // a 32-bit task runs 64-bit code during batches
        return registers
    }
    private func enter() throws(SyscallError) { try task.setRegisters(registers(at: GraftSlot.headerSize)) }

    private func waitUntilParked() throws(SyscallError) {
        while true {
            switch try task.wait()! {
            case .signal(parkSignal):
                // Anybody may send one, and a child's death SIGCHLD; the graft's own comes when it stands at its park point.
                if try task.registers().rip == slot.base + UInt64(clinux_graft_park_offset()) { return }
                try task.continue()
            case .signal(SIGSTOP):
                postponed.append(SIGSTOP)
                try task.continue()
            case .signal(let signal) where [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS].contains(signal):
                let at = String(try task.registers().rip, radix: 16)
                throw SyscallError("run a batch", .remote(task: task.id, what: "signal \(signal) at 0x\(at)"), EFAULT)
            case .signal, .stopped, .event, .systemCall: try task.continue()
            case .exited, .killed: throw SyscallError("run a batch", .remote(task: task.id, what: "it ended"), ESRCH)
            }
        }
    }

    /// Puts mask and registers back as they were. The task stays stopped and traced; the scratch memory stays, too: another
    /// task of this address space must already be in the graft, or `unmapScratch` have been called.
    public func leave() throws(SyscallError) {
        try slot.setScratch(size: 0)
        try task.setSignalMask(savedMask)
        try task.setRegisters(saved)
        for signal in postponed { _ = kill(process.rawValue, signal) }
        postponed = []
    }

    /// munmap(2) of the scratch memory: no list can hold this call, so it is stepped through.
    public func unmapScratch() throws(SyscallError) {
        try step(SYS_munmap, layout.base, UInt64(layout.size))
        try slot.setScratch(size: 0)
    }

    /// One system call, followed by its entry and exit stops (PTRACE_O_TRACESYSGOOD must be set): for calls that take away
    /// the memory that a list would lie in. Returns the result or minus errno. The task stands in the exit stop.
    @discardableResult
    public func step(_ number: Int32, _ arguments: UInt64...) throws(SyscallError) -> Int {
        var registers = registers(at: clinux_graft_park_offset() - 2)  // tgkill's own `syscall`; behind it lies the park point
        registers.rax = UInt64(number)
        let values = arguments + [UInt64](repeating: 0, count: 6 - arguments.count)
        (registers.rdi, registers.rsi, registers.rdx) = (values[0], values[1], values[2])
        (registers.r10, registers.r8, registers.r9) = (values[3], values[4], values[5])
        try task.setRegisters(registers)
        var entered = false
        try task.continueToSystemCall()
        while true {
            switch try task.wait()! {
            case .systemCall:
                if entered { return Int(Int64(bitPattern: try task.registers().rax)) }
                entered = true
                try task.continueToSystemCall()
            case .signal(SIGSTOP):
                postponed.append(SIGSTOP)
                try task.continueToSystemCall()
            case .exited, .killed: throw SyscallError("run a call", .remote(task: task.id, what: "it ended"), ESRCH)
            default: try task.continueToSystemCall()
            }
        }
    }

    /// The thread ends; nothing of it is left in its process.
    public func exit() throws(SyscallError) {
        var batch = self.batch()
        batch.call("exit", SYS_exit, 0)
        try start(&batch)
        while !task.released {
            switch try task.wait()! {
            case .exited, .killed: return
            default: try task.continue()
            }
        }
    }

    /// What the graft does when no tracer is there any more, before it puts the task back: close these descriptors of the task.
    public func setCleanup(closing descriptors: [Int32]) throws(SyscallError) {
        precondition(descriptors.count < ScratchLayout.reservedCalls)
        var entries = descriptors.map { number in
            var entry = clinux_graft_call()
            (entry.number, entry.arguments.0) = (SYS_close, UInt64(number))
            return entry
        }
        var end = clinux_graft_call()
        end.number = -1
        entries.append(end)
        try memory.write(unsafe entries.withUnsafeBytes { unsafe Array($0) }, at: layout.cleanup)
        try slot.setCleanup(descriptors.isEmpty ? 0 : layout.cleanup)
    }

    /// A signal that does nothing by default and that the task does not look at: it neither catches nor blocks it. (One that
    /// is pending is blocked, or it would have been delivered.)
    private static func chooseParkSignal(caught: UInt64, blocked: UInt64) -> Int32 {
        func free(_ set: UInt64) -> Int32? { [SIGURG, SIGWINCH, SIGCHLD, SIGCONT].first { set & 1 << UInt64($0 - 1) == 0 } }
        return free(caught | blocked) ?? free(caught) ?? SIGURG
    }

    /// The signals that a process catches (SigCgt of /proc/PID/status): bit n - 1 is signal n.
    public static func caughtSignals(of process: ThreadID) throws(SyscallError) -> UInt64 { try Proc.status(process).hexadecimal("SigCgt") ?? 0 }
}
@available(*, unavailable) extension GraftedTask: Sendable {}

extension Registers {
    /// As the kernel would leave them when it restarts an interrupted call by itself, for a task that goes on without the
    /// kernel's help (arch/x86/kernel/signal.c, arch_do_signal_or_restart).
    public func restartedByHand() -> Registers {
        var registers = self
        guard Int64(bitPattern: orig_rax) >= 0 else { return registers }
        switch Int64(bitPattern: rax) {
        case -512, -513, -514: (registers.rax, registers.rip) = (orig_rax, rip - 2)
        case -516: (registers.rax, registers.rip) = (UInt64(SYS_restart_syscall), rip - 2)
        default: break
        }
        return registers
    }
}

extension clinux_graft_header {
    mutating func take(_ registers: Registers) {
        (ax, bx, cx, dx) = (registers.rax, registers.rbx, registers.rcx, registers.rdx)
        (si, di, bp) = (registers.rsi, registers.rdi, registers.rbp)
        (r8, r9, r10, r11) = (registers.r8, registers.r9, registers.r10, registers.r11)
        (r12, r13, r14, r15) = (registers.r12, registers.r13, registers.r14, registers.r15)
        (ip, cs, flags, sp, ss) = (registers.rip, registers.cs, registers.eflags, registers.rsp, registers.ss)
    }
}
