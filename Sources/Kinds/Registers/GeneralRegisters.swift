package import Graft
package import ImageMessages
import CLinux

/// General registers: user_regs_struct (sys/user.h) ⇄ user_x86_regs_entry. Segment bases are the real ones.
extension UserX86RegsEntry {
    package init(_ registers: Registers) {
        self.init()
        (r15, r14, r13, r12) = (registers.r15, registers.r14, registers.r13, registers.r12)
        (bp, bx, r11, r10) = (registers.rbp, registers.rbx, registers.r11, registers.r10)
        (r9, r8, ax, cx) = (registers.r9, registers.r8, registers.rax, registers.rcx)
        (dx, si, di, origAx) = (registers.rdx, registers.rsi, registers.rdi, registers.orig_rax)
        (ip, cs, flags, sp, ss) = (registers.rip, registers.cs, registers.eflags, registers.rsp, registers.ss)
        (fsBase, gsBase) = (registers.fs_base, registers.gs_base)
        (ds, es, fs, gs) = (registers.ds, registers.es, registers.fs, registers.gs)
        mode = .native
    }

    package var registers: Registers {
        var registers = Registers()
        (registers.r15, registers.r14, registers.r13, registers.r12) = (r15, r14, r13, r12)
        (registers.rbp, registers.rbx, registers.r11, registers.r10) = (bp, bx, r11, r10)
        (registers.r9, registers.r8, registers.rax, registers.rcx) = (r9, r8, ax, cx)
        (registers.rdx, registers.rsi, registers.rdi, registers.orig_rax) = (dx, si, di, origAx)
        (registers.rip, registers.cs, registers.eflags, registers.rsp, registers.ss) = (ip, cs, flags, sp, ss)
        (registers.fs_base, registers.gs_base) = (fsBase, gsBase)
        (registers.ds, registers.es, registers.fs, registers.gs) = (ds, es, fs, gs)
        return registers
    }

    /// Why these registers can't be loaded; nil when they can. The kernel refuses code and stack selectors that are not user
    /// space's (arch/x86/kernel/ptrace.c, set_segment_reg) and bases outside it.
    package var objection: String? {
        if mode == .compat || cs == 0x23 { return "32-bit tasks are not supported yet" }
        if cs != 0x33 { return "code segment 0x\(String(cs, radix: 16)) is not 64-bit user space's" }
        if ss & 3 != 3 { return "stack segment 0x\(String(ss, radix: 16)) is not user space's" }
        if fsBase >= 1 << 47 || gsBase >= 1 << 47 { return "a segment base lies outside user space" }
        if ip >= 1 << 47 { return "the instruction pointer lies outside user space" }
        return nil
    }
}
