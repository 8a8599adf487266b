public import CLinux
import Glibc
public import Linux

extension TracedTask {
    /// The task's rseq(2) registration; nil when there is none (PTRACE_GET_RSEQ_CONFIGURATION).
    public func rseqConfiguration() throws(SyscallError) -> clinux_rseq_configuration? {
        var found = clinux_rseq_configuration()
        do throws(SyscallError) {
            try request("PTRACE_GET_RSEQ_CONFIGURATION", 0x420f, address: MemoryLayout<clinux_rseq_configuration>.size, &found)
        } catch { return nil }  // a kernel without it has no rseq to lose, or the task is gone, which the next call says
        return found.pointer == 0 ? nil : found
    }

    /// The registers, with the instruction pointer moved to the abort handler when it lies in an active critical section: what
    /// the kernel does at every preemption (kernel/rseq.c, rseq_ip_fixup). Running anything else in the task makes the kernel
    /// forget the section, so it must not be gone on with.
    public func registersOutsideCriticalSection() throws(SyscallError) -> Registers {
        var registers = try registers()
        guard let rseq = try rseqConfiguration() else { return registers }
        let memory = RemoteMemory(of: id)
        guard let pointer = try? memory.read(rseq.pointer + 8, 8) else { return registers }
        let address = unsafe pointer.withUnsafeBytes { unsafe $0.loadUnaligned(as: UInt64.self) }
        guard address != 0, let raw = try? memory.read(address, MemoryLayout<clinux_rseq_cs>.size) else { return registers }
        let section = unsafe raw.withUnsafeBytes { unsafe $0.loadUnaligned(as: clinux_rseq_cs.self) }
        if registers.rip &- section.start_ip < section.post_commit_offset {
            registers.rip = section.abort_ip
            registers.orig_rax = UInt64.max
        }
        return registers
    }
}
