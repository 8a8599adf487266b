import CLinux
import Glibc
package import Graft
import Linux

/// A system call that a stop interrupted, and how it can go on (signal(7), "Interruption of system calls and library functions
/// by signal handlers"; arch/x86/kernel/signal.c, arch_do_signal_or_restart).
package enum InterruptedCall: Equatable {
    /// The task was not in a system call, or the call is over.
    case none
    /// It starts again from its arguments.
    case again
    /// It goes on from its restart block until the time that it was given first: restart_syscall(2).
    case continued

    // The kernel's own error numbers (include/linux/errno.h).
    private static let restartSystem = -512, restartNoInterrupt = -513, restartNoHandler = -514, restartBlock = -516

    /// - Parameter memory: the task's, for a look at time-outs that it passed by address.
    package init(_ registers: Registers, _ memory: RemoteMemory? = nil) {
        guard Int64(bitPattern: registers.orig_rax) >= 0 else { self = .none; return }
        switch Int(Int64(bitPattern: registers.rax)) {
        case Self.restartSystem, Self.restartNoInterrupt, Self.restartNoHandler: self = .again
        case Self.restartBlock: self = Self.waitsForPointInTime(registers) ? .again : .continued
        case -Int(EINTR): self = Self.wasOnlyStopped(registers, memory) ? .again : .none
        default: self = .none
        }
    }

    /// futex(2) FUTEX_WAIT_BITSET: its time is absolute, so the call can start again although the kernel would not do it that way.
    private static func waitsForPointInTime(_ registers: Registers) -> Bool {
        Int32(truncatingIfNeeded: registers.orig_rax) == SYS_futex && registers.rsi & 0x7f == 9
    }

    /// Calls that answer EINTR when the task was merely stopped, without any handler (signal(7), "Interruption of system calls
    /// by stop signals"), sockets with a time-out among them. They have done nothing yet, so they can start again and the stop stays hidden.
    /// One that waits for a long limited time is not: frozen again and again, its time would never be over; EINTR is what it has to expect.
    private static func wasOnlyStopped(_ registers: Registers, _ memory: RemoteMemory?) -> Bool {
        let limit = 30_000  // ms
        func isShort(timeAt address: UInt64) -> Bool {
            guard address != 0, let bytes = try? memory?.read(address, 16) else { return true }
            return bytes.word(Int64.self, at: 0) < limit / 1000
        }
        switch Int32(truncatingIfNeeded: registers.orig_rax) {
        case SYS_epoll_wait, SYS_epoll_pwait: return Int32(truncatingIfNeeded: registers.r10) <= limit  // -1: for ever
        case SYS_rt_sigtimedwait: return isShort(timeAt: registers.rdx)
        case SYS_semtimedop, 441 /* epoll_pwait2 */: return isShort(timeAt: registers.r10)
        case SYS_io_getevents, 333 /* io_pgetevents */: return isShort(timeAt: registers.r8)
        case SYS_semop, SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_sendto, SYS_sendmsg, SYS_sendmmsg,
            SYS_accept, SYS_accept4: return true
        default: return false
        }
    }

    /// What the kernel makes of an interrupted call when its task runs on: with a handler of a signal, EINTR or, where that is right, a new start; a new start without.
    package static func result(_ registers: Registers) -> UInt64 {
        switch Int(Int64(bitPattern: registers.rax)) {
        case restartSystem, restartNoInterrupt: registers.rax
        default: UInt64(bitPattern: Int64(restartNoHandler))
        }
    }
    /// Whether `result` may have given this.
    package static func isResult(_ value: UInt64) -> Bool { [restartSystem, restartNoInterrupt, restartNoHandler].contains(Int(Int64(bitPattern: value))) }

    /// The registers from which a task without its restart block goes on: what an image holds, as CRIU writes it.
    package static func settled(_ registers: Registers, _ memory: RemoteMemory? = nil) -> Registers {
        var registers = registers
        switch InterruptedCall(registers, memory) {
        case .none: break
        case .again: (registers.rax, registers.rip) = (registers.orig_rax, registers.rip &- 2)  // `syscall` and `int 0x80` are two bytes
        case .continued: registers.rax = UInt64(bitPattern: -Int64(EINTR))
        }
        return registers
    }
}
