import CLinux
import Glibc
public import Linux

extension GraftedTask {
    /// One system call that is told to stop as soon as it would wait. Returns its result as the kernel has it at the exit,
    /// -516 (ERESTART_RESTARTBLOCK) among them; the restart block stays the thread's until it waits again.
    /// PTRACE_O_TRACESYSGOOD must be set. The task stands in the exit stop, behind the graft's own `syscall`, with the interrupt's stop behind that.
    public func beginInterrupted(_ number: Int32, _ arguments: [UInt64]) throws(SyscallError) -> Int {
        var registers = try task.registers()
        registers.rbx = slot.base
        registers.rip = slot.base + UInt64(clinux_graft_park_offset() - 2)
        (registers.rax, registers.orig_rax) = (UInt64(number), UInt64.max)
        (registers.rdi, registers.rsi, registers.rdx) = (arguments[0], arguments[1], arguments[2])
        (registers.r10, registers.r8, registers.r9) = (arguments[3], arguments[4], arguments[5])
        try task.setRegisters(registers)
        try task.continueToSystemCall()
        var entered = false
        while true {
            switch try task.wait()! {
            case .systemCall:
                if entered {
                    let result = Int(Int64(bitPattern: try task.registers().rax))
                    // Nothing is left for the kernel to restart in the graft.
                    var done = try task.registers()
                    done.orig_rax = UInt64.max
                    try task.setRegisters(done)
                    return result
                }
                entered = true
                try task.interrupt()
                try task.continueToSystemCall()
            case .exited, .killed: throw SyscallError("run a call", .remote(task: task.id, what: "it ended"), ESRCH)
            default: try task.continueToSystemCall()
            }
        }
    }
}
