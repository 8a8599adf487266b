import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// The last step of a thread's restore: the registers from which it runs on.
package enum RestoredRegisters {
    /// Checks what `apply` will set, before anything of the thread exists.
    package static func check(_ info: ThreadInfoX86, thread: ThreadID) throws {
        if let objection = info.gpregs.objection { throw CheckpointError("restore", .task(thread), objection) }
        if info.fpregs.hasXsave, info.fpregs.xsave.hasCet, info.fpregs.xsave.cet.cet != 0 {
            throw CheckpointError("restore", .task(thread), "it uses a shadow stack, which is not supported yet")
        }
    }

    private static func registers(_ info: ThreadInfoX86, _ template: [UInt8], _ thread: ThreadID) throws -> ExtendedRegisters {
        try CheckpointError.about("restore the registers of", .task(thread), remedy: "restore on a CPU with the features of the one that dumped") {
            try ExtendedRegisters(info.fpregs, template: template)
        }
    }

    /// What `apply` would refuse on this CPU.
    package static func check(_ info: ThreadInfoX86, of thread: ThreadID) throws {
        try check(info, thread: thread)
        // What PTRACE_GETREGSET gives of a task that has used nothing yet.
        var template = [UInt8](repeating: 0, count: ExtendedRegisters.size)
        template.put(UInt32(0xffff), at: 28)
        _ = try registers(info, template, thread)
    }

    /// Sets extended registers, TLS descriptors, general registers and blocked signals of a stopped thread. Where it was in a system call, the call is left to the kernel as one that was interrupted: a
    /// signal that waits, or comes before the thread runs, ends it as it would have. Whoever is detached looks for signals before it runs on (kernel/ptrace.c, __ptrace_unlink), whatever stop it is in.
    /// - Parameters:
    ///   - interrupted: how the call ended for the kernel (`InterruptedCall.result`); nil in images of CRIU, with which it just starts again.
    ///   - mask: `blk_sigset`: of the leader it is in the process's part of its core.
    ///   - sleep: what `SleepRestore.begin` answered.
    package static func apply(_ info: ThreadInfoX86, interrupted: UInt64?, mask: UInt64, sleep: SleepRestore.Outcome, to task: TracedTask) throws {
        try check(info, thread: task.id)
        try registers(info, try ExtendedRegisters(of: task).area, task.id).set(in: task)
        for entry in info.tls where !entry.segNotPresent && (12...14).contains(entry.entryNumber) {
            var flags: UInt32 = entry.seg32Bit ? 1 : 0
            flags |= (entry.contentsL ? 2 : 0) | (entry.contentsH ? 4 : 0) | (entry.readExecOnly ? 8 : 0)
            flags |= (entry.limitInPages ? 16 : 0) | (entry.usable ? 64 : 0)
            var raw: (entry: UInt32, base: UInt32, limit: UInt32, flags: UInt32) = (entry.entryNumber, entry.baseAddr, entry.limit, flags)
            try task.request("PTRACE_SET_THREAD_AREA", 26, address: Int(entry.entryNumber), &raw)
        }
        var registers = info.gpregs.registers
        registers.orig_rax = UInt64.max  // the kernel must not restart a call that is not this life's
        switch sleep {
        case .none:
            if let interrupted, InterruptedCall.isResult(interrupted) { (registers.orig_rax, registers.rax, registers.rip) = (registers.rax, interrupted, registers.rip &+ 2) }
        case .finished(let result): registers.rax = UInt64(bitPattern: Int64(result))
        case .sleeping(_, .some) where !isInterrupted(task, mask):
            // Told by nobody how much time is left, a program that is interrupted in the next moments takes what lies there: better that it sleeps on.
            (registers.rax, registers.rip) = (UInt64(SYS_restart_syscall), registers.rip &- 2)
        case .sleeping(let number, let remainder):
            if let remainder { try RemoteMemory(of: task.id).write(remainder.content, at: remainder.address) }
            (registers.orig_rax, registers.rax) = (UInt64(number), UInt64(bitPattern: -516))
        }
        try task.setRegisters(registers)
        try task.setSignalMask(mask)
    }

    /// Whether a signal waits that has a handler.
    private static func isInterrupted(_ task: TracedTask, _ mask: UInt64) -> Bool {
        guard let status = try? Proc.status(task.id) else { return false }
        func set(_ name: String) -> UInt64 { status.hexadecimal(name) ?? 0 }
        return (set("SigPnd") | set("ShdPnd")) & set("SigCgt") & ~mask != 0
    }
}
