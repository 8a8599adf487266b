import CLinux
import Glibc

/// Pages on their way from a process, a file or a socket to another, through one buffer that is used again and again. It may be handed
/// from thread to thread, and is for one at a time.
@safe public final class PageBuffer: @unchecked Sendable {
    /// Of a buffer made without saying how big.
    public static let capacity = 1 << 20
    private let capacity: Int
    private let memory: UnsafeMutableRawBufferPointer
    /// Bytes in it.
    public private(set) var count = 0
    public init(_ capacity: Int = PageBuffer.capacity) {
        self.capacity = capacity
        unsafe memory = .allocate(byteCount: capacity, alignment: 4096)
    }
    deinit { unsafe memory.deallocate() }

    /// Reads up to `capacity` bytes of a process's memory. Returns fewer where a page can't be read by the process itself.
    public func read(_ range: Range<UInt64>, of process: ThreadID) -> Int { read(CollectionOfOne(range), of: process) }

    /// The same of several places, one behind the other: as many as one call takes.
    public func read(_ ranges: some Sequence<Range<UInt64>>, of process: ThreadID) -> Int {
        var vectors = unsafe [iovec(iov_base: memory.baseAddress, iov_len: 0)], room = capacity
        for range in ranges {
            guard room > 0, unsafe vectors.count <= Self.mostVectors else { break }
            let length = min(range.count, room)
            unsafe vectors.append(iovec(iov_base: UnsafeMutableRawPointer(bitPattern: UInt(range.lowerBound)), iov_len: length))
            room -= length
        }
        unsafe vectors[0].iov_len = capacity - room
        let got = unsafe vectors.withUnsafeBytes { all in
            let local = Int(bitPattern: all.baseAddress)
            return unsafe Syscall.raw(SYS_process_vm_readv, Int(process.rawValue), local, 1, local + MemoryLayout<iovec>.stride, all.count / MemoryLayout<iovec>.stride - 1)
        }
        count = max(got, 0) & ~4095
        return count
    }
    /// UIO_MAXIOV, readv(2).
    private static let mostVectors = 1024

    /// Reads through /proc/PID/mem, which shows also what the process may not read itself.
    public func inspect(_ range: Range<UInt64>, _ file: FileDescriptor) -> Int { read(from: file, at: range.lowerBound, range.count) }

    /// Reads from a file. Fewer bytes than asked at its end, none on failure.
    public func read(from file: FileDescriptor, at offset: UInt64, _ length: Int) -> Int {
        let got = unsafe Syscall.raw(SYS_pread64, Int(file.number), Int(bitPattern: memory.baseAddress), min(length, capacity), Int(bitPattern: UInt(offset)))
        count = max(got, 0)
        return count
    }

    /// Reads from a file, behind what is there. Returns how many bytes came: fewer at its end or where there is no room, none on failure.
    public func readMore(from file: FileDescriptor, at offset: UInt64, _ length: Int) -> Int {
        let got = max(unsafe Syscall.raw(SYS_pread64, Int(file.number), Int(bitPattern: memory.baseAddress) + count, min(length, room), Int(bitPattern: UInt(offset))), 0)
        count += got
        return got
    }

    /// Reads from a file until the buffer is full, `length` bytes are there, or the file ends.
    public func fill(from file: FileDescriptor, at offset: UInt64, _ length: Int) throws(SyscallError) {
        count = 0
        let wanted = min(length, capacity)
        while count < wanted {
            let at = count
            let got = try Syscall.check("pread", .fd(file.number)) {
                unsafe Syscall.raw(SYS_pread64, Int(file.number), Int(bitPattern: memory.baseAddress) + at, wanted - at, Int(bitPattern: UInt(offset)) + at)
            }
            if got == 0 { return }
            count += got
        }
    }

    /// Reads exactly `length` bytes from a connection; false when it ends before.
    public func receive(_ length: Int, from stream: any ByteStream) throws -> Bool {
        count = 0
        return try receiveMore(length, from: stream)
    }
    /// The same, behind what is there.
    public func receiveMore(_ length: Int, from stream: any ByteStream) throws -> Bool {
        let end = count + length
        precondition(end <= capacity, "more than there is room for")
        while count < end { if try receiveSome(end - count, from: stream) == 0 { return false } }
        return true
    }
    /// As many bytes as come together, behind what is there. Returns how many, none at the end.
    public func receiveSome(_ most: Int, from stream: any ByteStream) throws -> Int {
        let room = min(most, capacity - count)
        let got = try unsafe stream.readSome(into: UnsafeMutableRawBufferPointer(rebasing: memory[count..<(count + room)]))
        count += got
        return got
    }
    /// Sends what is there, or a part of it, over a connection, or writes it to a file where that stands.
    public func send(_ part: Range<Int>? = nil, over stream: any ByteStream) throws { try unsafe stream.writeAll(memory(part ?? 0..<count)) }
    /// - Parameter starts: where in it things begin that belong apart, the first at 0.
    public func send(apartAt starts: [Int], over stream: any ByteStream) throws { try unsafe stream.writeAll(memory(0..<count), apartAt: starts) }

    /// Of each page in it.
    public var checksums: [UInt32] { checksums(of: 0..<count) }
    public func checksums(of part: Range<Int>) -> [UInt32] { unsafe Checksum.ofPages(memory(part)) }
    /// Of all that is in it, behind what has the checksum `before`.
    public func checksum(after before: UInt32) -> UInt32 { unsafe clinux_crc32c(before, memory.baseAddress, count) }

    public func clear(_ length: Int) {
        count = min(length, capacity)
        unsafe memory.baseAddress!.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    }
    /// Zeros where `ranges` (addresses) overlap what was read from `piece`, which lies `offset` bytes from the beginning.
    public func blank(_ ranges: [Range<UInt64>], in piece: Range<UInt64>, at offset: Int) {
        precondition(offset + piece.count <= count)
        for range in ranges where range.overlaps(piece) {
            let part = range.clamped(to: piece)
            unsafe (memory.baseAddress! + offset + Int(part.lowerBound - piece.lowerBound)).initializeMemory(as: UInt8.self, repeating: 0, count: part.count)
        }
    }

    /// Writes what is there, or a part of it, at `offset` of a file.
    public func write(_ part: Range<Int>? = nil, to file: FileDescriptor, at offset: UInt64) throws(SyscallError) {
        let part = part ?? 0..<count
        var done = 0
        while done < part.count {
            let at = done, left = part.count - done
            done += try Syscall.check("write", .fd(file.number)) {
                unsafe Syscall.raw(SYS_pwrite64, Int(file.number), Int(bitPattern: memory.baseAddress) + part.lowerBound + at, left, Int(offset) + at)
            }
        }
    }

    /// A part of another buffer behind what is there; as much of it as there is room for. Returns how many bytes.
    public func append(_ other: PageBuffer, _ part: Range<Int>) -> Int {
        let length = min(part.count, capacity - count)
        guard length > 0 else { return 0 }
        unsafe (memory.baseAddress! + count).copyMemory(from: other.memory(part).baseAddress!, byteCount: length)
        count += length
        return length
    }
    /// Bytes behind what is there, for which there must be room.
    public func append(_ bytes: [UInt8]) {
        precondition(bytes.count <= room, "more than there is room for")
        unsafe bytes.withUnsafeBytes { unsafe (memory.baseAddress! + count).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        count += bytes.count
    }
    public var room: Int { capacity - count }
    /// Zeros up to the end of a page.
    public func pad() {
        let end = min((count + 4095) & ~4095, capacity)
        unsafe (memory.baseAddress! + count).initializeMemory(as: UInt8.self, repeating: 0, count: end - count)
        count = end
    }
    /// A part as an array.
    public func bytes(_ part: Range<Int>) -> [UInt8] { unsafe Array(memory(part)) }
    public var isFull: Bool { count == capacity }
    public var isZero: Bool { unsafe memory(0..<count).allSatisfy { $0 == 0 } }

    /// Puts a part into another process's memory, which must be writable (process_vm_writev(2)).
    public func write(_ part: Range<Int>, to process: ThreadID, at address: UInt64) throws(SyscallError) {
        var done = 0
        while done < part.count {
            let source = unsafe memory(part.lowerBound + done..<part.upperBound)
            var vectors = unsafe (
                iovec(iov_base: UnsafeMutableRawPointer(mutating: source.baseAddress), iov_len: source.count),
                iovec(iov_base: UnsafeMutableRawPointer(bitPattern: UInt(address) + UInt(done)), iov_len: source.count))
            let put = try Syscall.check("process_vm_writev", .task(process)) {
                unsafe withUnsafeMutablePointer(to: &vectors) { pair in
                    let local = Int(bitPattern: pair)
                    return unsafe Syscall.raw(SYS_process_vm_writev, Int(process.rawValue), local, 1, local + MemoryLayout<iovec>.stride, 1)
                }
            }
            if put == 0 { throw SyscallError("process_vm_writev", .task(process), EFAULT) }
            done += put
        }
    }

    /// Where a part lies, for a structure of the kernel's: good as long as the buffer is.
    public func address(of part: Range<Int>) -> UInt64 { unsafe UInt64(UInt(bitPattern: memory(part).baseAddress)) }

    /// A part, for a call that takes its address.
    @unsafe public func memory(_ part: Range<Int>) -> UnsafeRawBufferPointer {
        precondition(part.lowerBound >= 0 && part.upperBound <= count)
        return unsafe UnsafeRawBufferPointer(rebasing: memory[part])
    }
    /// Replaces what is there by a call that takes the buffer's address and answers how many bytes it has put there.
    @unsafe public func produce(_ body: (UnsafeMutableRawBufferPointer) -> Int) -> Int {
        count = min(max(unsafe body(memory), 0), capacity)
        return count
    }
}
