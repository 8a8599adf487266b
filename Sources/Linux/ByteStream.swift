import CLinux
import Glibc

/// A connection: bytes in both directions, each in order. A descriptor is one as it is; TLS makes one of another. For one thread at a time.
public protocol ByteStream: AnyObject, Sendable {
    /// What poll(2) waits for, and what socket options are set on.
    var descriptor: FileDescriptor { get }
    /// Whether bytes wait here, of which poll(2) knows nothing.
    var hasMore: Bool { get }
    /// Waits for bytes and answers how many came; 0 at the end.
    @unsafe func readSome(into place: UnsafeMutableRawBufferPointer) throws -> Int
    @unsafe func writeAll(_ bytes: UnsafeRawBufferPointer) throws
    /// The same for several things that belong apart: where there are records, each of them begins a new one.
    /// - Parameter starts: ascending places in `bytes`, the first 0.
    @unsafe func writeAll(_ bytes: UnsafeRawBufferPointer, apartAt starts: [Int]) throws
    /// Nothing more is said or heard, and the other end knows it when this returns. It may have gone before.
    func sayEnd()
}

extension ByteStream {
    /// At most `count` bytes, as many as come together; none at the end.
    public func readSome(_ count: Int) throws -> [UInt8] {
        try unsafe [UInt8](unsafeUninitializedCapacity: count) { place, got in got = try unsafe readSome(into: UnsafeMutableRawBufferPointer(place)) }
    }
    public func writeAll(_ bytes: [UInt8]) throws { try unsafe bytes.withUnsafeBytes { try unsafe writeAll($0) } }
    @unsafe public func writeAll(_ bytes: UnsafeRawBufferPointer, apartAt starts: [Int]) throws { try unsafe writeAll(bytes) }
}

extension FileDescriptor: ByteStream {
    public var descriptor: FileDescriptor { self }
    public var hasMore: Bool { false }
    @unsafe public func readSome(into place: UnsafeMutableRawBufferPointer) throws -> Int {
        try Syscall.check("read", .fd(number)) { unsafe Syscall.raw(SYS_read, Int(number), Int(bitPattern: place.baseAddress), place.count) }
    }
    @unsafe public func writeAll(_ bytes: UnsafeRawBufferPointer) throws {
        var done = 0
        while done < bytes.count {
            let start = done
            done += try Syscall.check("write", .fd(number)) { unsafe Syscall.raw(SYS_write, Int(number), Int(bitPattern: bytes.baseAddress) + start, bytes.count - start) }
        }
    }
    public func sayEnd() {}
}

/// An error that knows what to do about it.
public protocol RemediableError: Error { var remedy: String? { get } }
