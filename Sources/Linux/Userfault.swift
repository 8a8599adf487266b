import CLinux
import Glibc

/// A userfaultfd(2): the memory of one process, watched or filled from outside (linux/userfaultfd.h,
/// Documentation/admin-guide/mm/userfaultfd.rst). It belongs to the memory of the task that made it, whoever holds it.
public struct Userfault: Sendable {
    public let descriptor: FileDescriptor
    public init(_ descriptor: FileDescriptor) { self.descriptor = descriptor }

    public struct Features: OptionSet, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        public static let forkEvents = Self(rawValue: 1 << 1), remapEvents = Self(rawValue: 1 << 2), removeEvents = Self(rawValue: 1 << 3)
        public static let unmapEvents = Self(rawValue: 1 << 6), protectsHugeAndShared = Self(rawValue: 1 << 12)
        public static let protectsUnpopulated = Self(rawValue: 1 << 13), protectsAsynchronously = Self(rawValue: 1 << 15)
    }
    /// One for our own memory.
    public static func make(_ features: Features = []) throws(SyscallError) -> Userfault {
        let number = try Syscall.call("userfaultfd", SYS_userfaultfd, Int(O_CLOEXEC | O_NONBLOCK))
        let made = Userfault(FileDescriptor(owning: Int32(number)))
        try made.enable(features)
        return made
    }

    public enum Mode: UInt64 { case missing = 1, writeProtected = 2 }

    /// UFFDIO_API, before anything else.
    public func enable(_ features: Features) throws(SyscallError) {
        var request: (api: UInt64, features: UInt64, ioctls: UInt64) = (0xaa, features.rawValue, 0)
        try descriptor.ioctl("UFFDIO_API", 0xc018_aa3f, &request)
    }

    public func register(_ range: Range<UInt64>, _ mode: Mode) throws(SyscallError) {
        var request: (UInt64, UInt64, mode: UInt64, ioctls: UInt64) = (range.lowerBound, UInt64(range.count), mode.rawValue, 0)
        try descriptor.ioctl("UFFDIO_REGISTER", 0xc020_aa00, &request)
    }

    public func unregister(_ range: Range<UInt64>) throws(SyscallError) {
        var request: (UInt64, UInt64) = (range.lowerBound, UInt64(range.count))
        try descriptor.ioctl("UFFDIO_UNREGISTER", 0x8010_aa01, &request)
    }

    /// Takes the write protection of pages away: they count as written.
    public func unprotect(_ range: Range<UInt64>) throws(SyscallError) {
        var request: (UInt64, UInt64, mode: UInt64) = (range.lowerBound, UInt64(range.count), 0)
        try descriptor.ioctl("UFFDIO_WRITEPROTECT", 0xc018_aa06, &request)
    }

    /// Puts pages of zeros there. Returns how many bytes were taken (`PageBuffer.fill`).
    public func zero(_ range: Range<UInt64>) throws(SyscallError) -> Int {
        var request: (UInt64, UInt64, mode: UInt64, zeroed: Int64) = (range.lowerBound, UInt64(range.count), 0, 0)
        do throws(SyscallError) { try descriptor.ioctl("UFFDIO_ZEROPAGE", 0xc020_aa04, &request) } catch { if request.zeroed <= 0 { throw error } }
        return Int(request.zeroed)
    }

    public func wake(_ range: Range<UInt64>) throws(SyscallError) {
        var request: (UInt64, UInt64) = (range.lowerBound, UInt64(range.count))
        try descriptor.ioctl("UFFDIO_WAKE", 0x8010_aa02, &request)
    }
}

extension PageBuffer {
    /// Puts `length` bytes of it, from `start` on, into pages that are missing, and wakes who waits for them. Returns how many bytes were taken: a
    /// transfer that stopped half-way says EAGAIN and how far it came.
    public func fill(_ fault: Userfault, at address: UInt64, from start: Int, _ length: Int) throws(SyscallError) -> Int {
        var request: (UInt64, UInt64, UInt64, mode: UInt64, copied: Int64) = (address, self.address(of: start..<(start + length)), UInt64(length), 0, 0)
        do throws(SyscallError) { try fault.descriptor.ioctl("UFFDIO_COPY", 0xc028_aa03, &request) } catch { if request.copied <= 0 { throw error } }
        return Int(request.copied)
    }
}
