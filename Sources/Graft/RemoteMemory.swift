import CLinux
import Glibc
public import Linux

/// Reads and writes another task's memory: process_vm_readv(2) for what it may touch itself, /proc/PID/mem for what it may
/// not write (code, read-only data), as a debugger does.
public struct RemoteMemory: Sendable {
    public let task: ThreadID
    public init(of task: ThreadID) { self.task = task }

    public func read(_ address: UInt64, _ count: Int) throws(SyscallError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        if count == 0 { return bytes }
        let got = transfer(SYS_process_vm_readv, address, &bytes)
        if got == count { return bytes }
        throw SyscallError("process_vm_readv", .remote(task: task, what: hex(address)), got < 0 ? Int32(-got) : EFAULT)
    }

    public func write(_ bytes: [UInt8], at address: UInt64) throws(SyscallError) {
        if bytes.isEmpty { return }
        var bytes = bytes
        let done = transfer(SYS_process_vm_writev, address, &bytes)
        if done == bytes.count { return }
        throw SyscallError("process_vm_writev", .remote(task: task, what: hex(address)), done < 0 ? Int32(-done) : EFAULT)
    }

    /// Writes also where the task may not: the kernel copies the page on write (FOLL_FORCE, mm/memory.c).
    public func overwrite(_ bytes: [UInt8], at address: UInt64) throws(SyscallError) {
        let file = try FileDescriptor.open("/proc/\(task)/mem", O_RDWR)
        try file.write(bytes, at: Int(bitPattern: UInt(address)))
    }
    /// Reads also what the task may not, such as PROT_NONE mappings.
    public func inspect(_ address: UInt64, _ count: Int) throws(SyscallError) -> [UInt8] {
        let file = try FileDescriptor.open("/proc/\(task)/mem", O_RDONLY)
        let bytes = try file.read(count, at: Int(bitPattern: UInt(address)))
        if bytes.count != count { throw SyscallError("read /proc/\(task)/mem", .remote(task: task, what: hex(address)), EFAULT) }
        return bytes
    }

    private func transfer(_ number: Int32, _ address: UInt64, _ bytes: inout [UInt8]) -> Int {
        let pid = Int(task.rawValue)
        return unsafe bytes.withUnsafeMutableBytes { buffer in
            var vectors = unsafe (
                iovec(iov_base: buffer.baseAddress, iov_len: buffer.count),
                iovec(iov_base: UnsafeMutableRawPointer(bitPattern: UInt(address)), iov_len: buffer.count))
            return unsafe withUnsafeMutablePointer(to: &vectors) { pair in
                let local = Int(bitPattern: pair)
                return unsafe Syscall.raw(number, pid, local, 1, local + MemoryLayout<iovec>.stride, 1)
            }
        }
    }
    private func hex(_ address: UInt64) -> String { "0x" + String(address, radix: 16) }
}
