import CLinux
import Glibc
package import Graft
package import Linux

/// A userfaultfd(2): the memory of one process, watched or filled from outside (linux/userfaultfd.h,
/// Documentation/admin-guide/mm/userfaultfd.rst). It belongs to the memory of the task that made it, whoever holds it.
package struct Userfault: Sendable {
    package let descriptor: FileDescriptor
    package init(_ descriptor: FileDescriptor) { self.descriptor = descriptor }

    package struct Features: OptionSet, Sendable {
        package let rawValue: UInt64
        package init(rawValue: UInt64) { self.rawValue = rawValue }
        package static let forkEvents = Self(rawValue: 1 << 1), remapEvents = Self(rawValue: 1 << 2), removeEvents = Self(rawValue: 1 << 3)
        package static let unmapEvents = Self(rawValue: 1 << 6), protectsHugeAndShared = Self(rawValue: 1 << 12)
        package static let protectsUnpopulated = Self(rawValue: 1 << 13), protectsAsynchronously = Self(rawValue: 1 << 15)
    }
    package enum Mode: UInt64 { case missing = 1, writeProtected = 2 }

    /// Lets a task make one and takes it away: it leaves no descriptor in the task, also when we die in between.
    /// - Parameter used: the task's descriptor numbers, which stands still.
    /// - Parameter userModeOnly: whether faults inside system calls are left alone; needs no rights.
    package static func make(in grafted: GraftedTask, used: [Int32], userModeOnly: Bool, features: Features) throws(SyscallError) -> Userfault {
        let taken = Set(used)
        var free: Int32 = 0
        while taken.contains(free) { free += 1 }
        try grafted.setCleanup(closing: [free])
        var make = grafted.batch()
        let call = make.call("userfaultfd", SYS_userfaultfd, .init(O_CLOEXEC | O_NONBLOCK | (userModeOnly ? 1 : 0)))
        try grafted.run(&make)
        let number = Int32(truncatingIfNeeded: make.result(call))
        let result = Result { () throws(SyscallError) in Userfault(try FileDescriptor.duplicate(number, ofProcess: try FileDescriptor.process(grafted.process))) }
        var close = grafted.batch()
        close.call("close", SYS_close, .init(number))
        try grafted.run(&close)
        try grafted.setCleanup(closing: [])
        let made = try result.get()
        try made.enable(features)
        return made
    }

    /// UFFDIO_API, before anything else.
    package func enable(_ features: Features) throws(SyscallError) {
        var request: (api: UInt64, features: UInt64, ioctls: UInt64) = (0xaa, features.rawValue, 0)
        try descriptor.ioctl("UFFDIO_API", 0xc018_aa3f, &request)
    }

    package func register(_ range: Range<UInt64>, _ mode: Mode) throws(SyscallError) {
        var request: (UInt64, UInt64, mode: UInt64, ioctls: UInt64) = (range.lowerBound, UInt64(range.count), mode.rawValue, 0)
        try descriptor.ioctl("UFFDIO_REGISTER", 0xc020_aa00, &request)
    }

    package func unregister(_ range: Range<UInt64>) throws(SyscallError) {
        var request: (UInt64, UInt64) = (range.lowerBound, UInt64(range.count))
        try descriptor.ioctl("UFFDIO_UNREGISTER", 0x8010_aa01, &request)
    }

    /// Takes the write protection of pages away: they count as written.
    package func unprotect(_ range: Range<UInt64>) throws(SyscallError) {
        var request: (UInt64, UInt64, mode: UInt64) = (range.lowerBound, UInt64(range.count), 0)
        try descriptor.ioctl("UFFDIO_WRITEPROTECT", 0xc018_aa06, &request)
    }

    /// Puts `length` bytes of ours into pages that are missing, and wakes who waits for them. Returns how many bytes were taken: a transfer that
    /// stopped half-way says EAGAIN and how far it came.
    /// - Parameter source: where they are, `PageBuffer.address(of:)`.
    package func copy(from source: UInt64, _ length: Int, to address: UInt64) throws(SyscallError) -> Int {
        var request: (UInt64, UInt64, UInt64, mode: UInt64, copied: Int64) = (address, source, UInt64(length), 0, 0)
        do throws(SyscallError) { try descriptor.ioctl("UFFDIO_COPY", 0xc028_aa03, &request) } catch { if request.copied <= 0 { throw error } }
        return Int(request.copied)
    }

    /// The same with pages of zeros.
    package func zero(_ range: Range<UInt64>) throws(SyscallError) -> Int {
        var request: (UInt64, UInt64, mode: UInt64, zeroed: Int64) = (range.lowerBound, UInt64(range.count), 0, 0)
        do throws(SyscallError) { try descriptor.ioctl("UFFDIO_ZEROPAGE", 0xc020_aa04, &request) } catch { if request.zeroed <= 0 { throw error } }
        return Int(request.zeroed)
    }

    package func wake(_ range: Range<UInt64>) throws(SyscallError) {
        var request: (UInt64, UInt64) = (range.lowerBound, UInt64(range.count))
        try descriptor.ioctl("UFFDIO_WAKE", 0x8010_aa02, &request)
    }
}
