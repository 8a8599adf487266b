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
        let got = unsafe bytes.withUnsafeMutableBytes { unsafe transfer(SYS_process_vm_readv, address, $0) }
        try check("process_vm_readv", got, count, at: address)
        return bytes
    }

    /// One process_vm_readv(2) or process_vm_writev(2) of two buffers at two places.
    typealias Part = (buffer: UnsafeMutableRawBufferPointer, address: UInt64)
    @unsafe func transfer(_ number: Int32, _ first: Part, _ second: Part) -> Int {
        var vectors = unsafe (
            iovec(iov_base: first.buffer.baseAddress, iov_len: first.buffer.count), iovec(iov_base: second.buffer.baseAddress, iov_len: second.buffer.count),
            iovec(iov_base: UnsafeMutableRawPointer(bitPattern: UInt(first.address)), iov_len: first.buffer.count),
            iovec(iov_base: UnsafeMutableRawPointer(bitPattern: UInt(second.address)), iov_len: second.buffer.count))
        return unsafe withUnsafeMutablePointer(to: &vectors) { vectors in
            let local = Int(bitPattern: vectors)
            return unsafe Syscall.raw(number, Int(task.rawValue), local, 2, local + 2 * MemoryLayout<iovec>.stride, 2)
        }
    }
    /// - Parameter done: what such a call answered, where `count` bytes were wanted.
    func check(_ call: String, _ done: Int, _ count: Int, at address: UInt64) throws(SyscallError) {
        if done != count { throw SyscallError(call, .remote(task: task, what: hex(address)), done < 0 ? Int32(-done) : EFAULT) }
    }

    public func write(_ bytes: [UInt8], at address: UInt64) throws(SyscallError) {
        if bytes.isEmpty { return }
        // process_vm_writev(2) only reads the local buffer.
        let done = unsafe bytes.withUnsafeBytes { unsafe transfer(SYS_process_vm_writev, address, UnsafeMutableRawBufferPointer(mutating: $0)) }
        try check("process_vm_writev", done, bytes.count, at: address)
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

    @unsafe private func transfer(_ number: Int32, _ address: UInt64, _ buffer: UnsafeMutableRawBufferPointer) -> Int {
        var vectors = unsafe (
            iovec(iov_base: buffer.baseAddress, iov_len: buffer.count),
            iovec(iov_base: UnsafeMutableRawPointer(bitPattern: UInt(address)), iov_len: buffer.count))
        return unsafe withUnsafeMutablePointer(to: &vectors) { pair in
            let local = Int(bitPattern: pair)
            return unsafe Syscall.raw(number, Int(task.rawValue), local, 1, local + MemoryLayout<iovec>.stride, 1)
        }
    }
    private func hex(_ address: UInt64) -> String { "0x" + String(address, radix: 16) }
}
