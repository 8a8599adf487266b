import CLinux
import Glibc
package import Linux

/// Pages of other processes on their way to a file or socket, through one buffer that is used again and again.
@safe package final class PageBuffer {
    package static let capacity = 1 << 20
    private let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: PageBuffer.capacity, alignment: 4096)
    /// Bytes in it.
    package private(set) var count = 0
    package init() {}
    deinit { unsafe memory.deallocate() }

    /// Reads up to `capacity` bytes of a process's memory. Returns fewer where a page can't be read by the process itself.
    package func read(_ range: Range<UInt64>, of process: ThreadID) -> Int {
        let length = min(range.count, Self.capacity)
        var vectors = unsafe (
            iovec(iov_base: memory.baseAddress, iov_len: length), iovec(iov_base: UnsafeMutableRawPointer(bitPattern: UInt(range.lowerBound)), iov_len: length))
        let got = unsafe withUnsafeMutablePointer(to: &vectors) { pair in
            let local = Int(bitPattern: pair)
            return unsafe Syscall.raw(SYS_process_vm_readv, Int(process.rawValue), local, 1, local + MemoryLayout<iovec>.stride, 1)
        }
        count = max(got, 0) & ~4095
        return count
    }

    /// Reads through /proc/PID/mem, which shows also what the process may not read itself.
    package func inspect(_ range: Range<UInt64>, _ file: FileDescriptor) -> Int { read(from: file, at: range.lowerBound, range.count) }

    /// Reads from a file. Fewer bytes than asked at its end, none on failure.
    package func read(from file: FileDescriptor, at offset: UInt64, _ length: Int) -> Int {
        let got = unsafe Syscall.raw(SYS_pread64, Int(file.number), Int(bitPattern: memory.baseAddress), min(length, Self.capacity), Int(bitPattern: UInt(offset)))
        count = max(got, 0)
        return count
    }

    /// Reads exactly `length` bytes from a stream; false when it ends before.
    package func receive(_ length: Int, from stream: FileDescriptor) throws(SyscallError) -> Bool {
        count = 0
        while count < length {
            let at = count
            let got = try Syscall.check("read", .fd(stream.number)) { unsafe Syscall.raw(SYS_read, Int(stream.number), Int(bitPattern: memory.baseAddress) + at, length - at) }
            if got == 0 { return false }
            count += got
        }
        return true
    }

    package func clear(_ length: Int) {
        count = min(length, Self.capacity)
        unsafe memory.baseAddress!.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    }
    /// Zeros where `ranges` (addresses) overlap what was read from `start`.
    package func blank(_ ranges: [Range<UInt64>], from start: UInt64) {
        for range in ranges {
            let part = range.clamped(to: start..<(start + UInt64(count)))
            if part.isEmpty { continue }
            unsafe (memory.baseAddress! + Int(part.lowerBound - start)).initializeMemory(as: UInt8.self, repeating: 0, count: part.count)
        }
    }

    /// Writes what was read, at `offset` of a file, or to a stream.
    package func write(to file: FileDescriptor, at offset: UInt64? = nil) throws(SyscallError) {
        var done = 0
        while done < count {
            let at = done
            done += try Syscall.check("write", .fd(file.number)) {
                let address = unsafe Int(bitPattern: memory.baseAddress) + at
                return if let offset { unsafe Syscall.raw(SYS_pwrite64, Int(file.number), address, count - at, Int(offset) + at) }
                else { unsafe Syscall.raw(SYS_write, Int(file.number), address, count - at) }
            }
        }
    }

    /// Puts what was read into missing pages of a process; returns how many bytes it took.
    package func fill(_ fault: Userfault, at address: UInt64, from start: Int, _ length: Int) throws(SyscallError) -> Int {
        try unsafe fault.copy(UnsafeRawBufferPointer(rebasing: memory[start..<(start + length)]), to: address)
    }
}
@available(*, unavailable) extension PageBuffer: Sendable {}

/// Copies pages of a process out, also those that it may not read itself.
package struct PageCopier {
    package let process: ThreadID
    private let memory: FileDescriptor?
    private let buffer: PageBuffer
    /// Addresses that are to be seen as zeros.
    package var blanks: [Range<UInt64>] = []

    package init(of process: ThreadID, _ buffer: PageBuffer) {
        (self.process, self.buffer) = (process, buffer)
        memory = try? FileDescriptor.open("/proc/\(process)/mem", O_RDONLY)
    }

    /// Gives `body` the pages piece by piece, in the buffer. A page that can't be read any more is given as nil and one page long.
    package func copy(_ range: Range<UInt64>, _ body: (_ piece: Range<UInt64>, _ content: PageBuffer?) throws -> Void) throws {
        var at = range.lowerBound
        while at < range.upperBound {
            var got = buffer.read(at..<range.upperBound, of: process)
            if got == 0, let memory { got = buffer.inspect(at..<(at + 4096), memory) & ~4095 }
            if got == 0 {
                try body(at..<(at + 4096), nil)
                at += 4096
                continue
            }
            buffer.blank(blanks, from: at)
            try body(at..<(at + UInt64(got)), buffer)
            at += UInt64(got)
        }
    }
}
