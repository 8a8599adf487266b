import CLinux
import Glibc
public import Linux

extension TracedTask {
    /// Signals queued for a stopped thread, or (`shared`) for its process: the kernel's 128-byte siginfo each, in queue order
    /// (PTRACE_PEEKSIGINFO). Nothing is taken out.
    public static func pendingSignals(of thread: ThreadID, shared: Bool) throws(SyscallError) -> [[UInt8]] {
        let size = 128, chunk = 32
        var found = [[UInt8]]()
        while true {
            var arguments = clinux_peeksiginfo()
            (arguments.offset, arguments.flags, arguments.count) = (UInt64(found.count), shared ? 1 : 0, Int32(chunk))
            var buffer = [UInt8](repeating: 0, count: size * chunk)
            let got: Int = unsafe buffer.withUnsafeMutableBytes { bytes in
                let data = Int(bitPattern: bytes.baseAddress)
                return unsafe withUnsafeMutablePointer(to: &arguments) {
                    unsafe Syscall.raw(SYS_ptrace, 0x4209, Int(thread.rawValue), Int(bitPattern: $0), data)
                }
            }
            if got < 0 { throw SyscallError("PTRACE_PEEKSIGINFO", .task(thread), Int32(-got)) }
            for index in 0..<min(got, chunk) { found.append(Array(buffer[(index * size)..<((index + 1) * size)])) }
            if got < chunk { return found }
        }
    }
}
