import CLinux
import Glibc

/// What ptrace(2) offers, tried on a child made for it.
extension KernelProbe {
    private static let seize = 0x4206, interrupt = 0x4207

    /// Runs `body` on a child that stands still under ptrace; nil where tracing isn't possible.
    private static func withTracedChild<Value>(options: Int = 0, _ body: (_ child: Int) -> Value) -> Value? {
        guard let child = try? Program.start("sleep", ["60"]) else { return nil }
        let id = Int(child.rawValue)
        defer {
            kill(child.rawValue, SIGKILL)
            _ = try? Program.wait(for: child)
        }
        guard (try? Syscall.call("PTRACE_SEIZE", SYS_ptrace, seize, id, 0, options)) != nil,
            (try? Syscall.call("PTRACE_INTERRUPT", SYS_ptrace, interrupt, id)) != nil,
            (try? Syscall.call("wait4", SYS_wait4, id, 0, 0x4000_0000)) != nil  // __WALL
        else { return nil }
        return body(id)
    }

    public static var tracing: Bool { withTracedChild { _ in true } ?? false }

    public static var seccompSuspend: Bool { withTracedChild(options: Int(CLINUX_PTRACE_O_SUSPEND_SECCOMP)) { _ in true } ?? false }

    /// PTRACE_SECCOMP_GET_FILTER of a task without filters is EINVAL or ENOENT; without the feature EIO, without the right EACCES.
    public static var seccompFilters: Bool {
        withTracedChild { child in
            let result = unsafe Syscall.raw(SYS_ptrace, Int(CLINUX_PTRACE_SECCOMP_GET_FILTER), child, 0, 0)
            return result == -Int(ENOENT) || result == -Int(EINVAL)
        } ?? false
    }

    public static var peekSignals: Bool {
        withTracedChild { child in
            var arguments = clinux_peeksiginfo()
            arguments.count = 1
            var info = [UInt8](repeating: 0, count: 128)
            return unsafe withUnsafePointer(to: &arguments) { asked in
                unsafe info.withUnsafeMutableBytes {
                    unsafe Syscall.raw(SYS_ptrace, Int(CLINUX_PTRACE_PEEKSIGINFO), child, Int(bitPattern: asked), Int(bitPattern: $0.baseAddress)) >= 0
                }
            }
        } ?? false
    }

    public static var rseqConfiguration: Bool {
        withTracedChild { child in
            var configuration = clinux_rseq_configuration()
            let size = MemoryLayout<clinux_rseq_configuration>.size
            return (try? Syscall.call(
                "ptrace", SYS_ptrace, value: &configuration, at: 3, Int(CLINUX_PTRACE_GET_RSEQ_CONFIGURATION), child, size)) == size
        } ?? false
    }

    /// A hardware breakpoint can be set: debug registers 0 and 7 of struct user (sys/user.h).
    public static var breakpoints: Bool {
        withTracedChild { child in
            let poke = 6, registers = 848
            return unsafe Syscall.raw(SYS_ptrace, poke, child, registers, 0x1000) == 0
                && Syscall.raw(SYS_ptrace, poke, child, registers + 7 * 8, 1) == 0
        } ?? false
    }
}
