import CLinux
import Glibc

/// A mapping of a file or socket in this process, shared if not said otherwise, unmapped when the last reference goes (mmap(2)).
@safe public final class MappedFile {
    private let address: UnsafeMutableRawPointer
    public let count: Int

    /// - Parameter offset: in the file, a multiple of the page size.
    public init(_ file: FileDescriptor, count: Int, at offset: UInt64 = 0) throws(SyscallError) {
        let number = file.number
        let result = try Syscall.check("mmap", .fd(number)) { unsafe Syscall.raw(SYS_mmap, 0, count, Int(PROT_READ | PROT_WRITE), Int(MAP_SHARED), Int(number), Int(offset)) }
        unsafe address = UnsafeMutableRawPointer(bitPattern: result)!
        self.count = count
    }
    /// A private mapping that is only read.
    public init(reading file: FileDescriptor, count: Int) throws(SyscallError) {
        let number = file.number
        let result = try Syscall.check("mmap", .fd(number)) { unsafe Syscall.raw(SYS_mmap, 0, count, Int(PROT_READ), Int(MAP_PRIVATE), Int(number), 0) }
        unsafe address = UnsafeMutableRawPointer(bitPattern: result)!
        self.count = count
    }
    private init(mapped address: Int, count: Int) { unsafe (self.address, self.count) = (UnsafeMutableRawPointer(bitPattern: address)!, count) }
    deinit { unsafe munmap(address, count) }

    /// Shared anonymous memory as an open file. It has no name to open it by but that of a mapping: /proc/self/map_files (proc(5)).
    /// - Parameter flags: of mmap(2), beside MAP_SHARED and MAP_ANONYMOUS.
    public static func sharedMemory(_ count: Int, flags: Int = 0) throws(SyscallError) -> FileDescriptor {
        let address = try Syscall.check("mmap") { unsafe Syscall.raw(SYS_mmap, 0, count, 3, 0x21 | flags, -1, 0) }
        let mapping = MappedFile(mapped: address, count: count)
        defer { withExtendedLifetime(mapping) {} }
        return try FileDescriptor.open("/proc/self/map_files/\(String(address, radix: 16))-\(String(address + count, radix: 16))", O_RDWR)
    }

    /// Where bytes of it are, for a call that takes an address.
    public func address(of range: Range<UInt64>) -> Range<UInt64> {
        precondition(range.upperBound <= count)
        let start = unsafe UInt64(UInt(bitPattern: address))
        return (start + range.lowerBound)..<(start + range.upperBound)
    }
    /// Takes whole pages out of the mapping, not out of the file (madvise(2), MADV_DONTNEED): they count as our memory no more.
    public func forget(_ range: Range<UInt64>) throws(SyscallError) {
        let place = address(of: range)
        try Syscall.call("madvise", SYS_madvise, Int(place.lowerBound), place.count, Int(MADV_DONTNEED))
    }

    public var content: [UInt8] { read(0..<count) }
    public func read(_ range: Range<Int>) -> [UInt8] {
        precondition(range.lowerBound >= 0 && range.upperBound <= count)
        return unsafe Array(UnsafeRawBufferPointer(start: address + range.lowerBound, count: range.count))
    }
    public func withSpan<Result>(_ body: (Span<UInt8>) throws -> Result) rethrows -> Result {
        defer { withExtendedLifetime(self) {} }
        return try body(unsafe UnsafeBufferPointer(start: address.assumingMemoryBound(to: UInt8.self), count: count).span)
    }
    public func write(_ bytes: [UInt8], at offset: Int) {
        precondition(offset >= 0 && offset + bytes.count <= count)
        unsafe bytes.withUnsafeBytes { unsafe (address + offset).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    }
    /// A native word. Between two looks at what the kernel changes there has to be a system call.
    public func word(_ offset: Int) -> UInt32 {
        precondition(offset >= 0 && offset + 4 <= count)
        return unsafe (address + offset).load(as: UInt32.self)
    }
    public func set(_ value: UInt32, at offset: Int) {
        precondition(offset >= 0 && offset + 4 <= count)
        unsafe (address + offset).storeBytes(of: value, as: UInt32.self)
    }
    /// Writes bytes of the mapping into a file.
    public func write(_ range: Range<Int>, to file: FileDescriptor, at offset: UInt64) throws(SyscallError) { try transfer("pwrite", SYS_pwrite64, range, file, offset) }
    /// Reads bytes of a file into the mapping; its end before that is an error (EIO).
    public func fill(_ range: Range<Int>, from file: FileDescriptor, at offset: UInt64) throws(SyscallError) { try transfer("pread", SYS_pread64, range, file, offset) }
    private func transfer(_ call: String, _ number: Int32, _ range: Range<Int>, _ file: FileDescriptor, _ offset: UInt64) throws(SyscallError) {
        precondition(range.lowerBound >= 0 && range.upperBound <= count)
        var done = range.lowerBound
        while done < range.upperBound {
            let at = unsafe Int(bitPattern: address) + done
            let moved = try Syscall.check(call, .fd(file.number)) { unsafe Syscall.raw(number, Int(file.number), at, range.upperBound - done, Int(offset) + done - range.lowerBound) }
            if moved == 0 { throw SyscallError(call, .fd(file.number), EIO) }
            done += moved
        }
    }
}
