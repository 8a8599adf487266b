import Glibc
package import ImageMessages
package import Linux

/// An open file description of the tree, as the dump sees it: met first as descriptor `number` of `process`.
package final class OpenFile {
    /// Its file id in the images.
    package let id: UInt32
    /// Our duplicate: the same open file description (pidfd_getfd(2)).
    package let descriptor: FileDescriptor
    package let process: ThreadID
    package let number: Int32
    package let status: FileStatus
    /// F_GETFL, without O_CLOEXEC.
    package let flags: UInt32
    /// readlink of /proc/PID/fd/N: a path, or a name such as "pipe:[42]", "anon_inode:[eventfd]", "socket:[7]".
    package let link: String
    private var cachedInfo: KeyedLines?

    package init(id: UInt32, descriptor: FileDescriptor, process: ThreadID, number: Int32, status: FileStatus, flags: UInt32, link: String, info: KeyedLines? = nil) {
        (self.id, self.descriptor, self.process, self.number) = (id, descriptor, process, number)
        (self.status, self.flags, self.link, cachedInfo) = (status, flags, link, info)
    }

    /// A file of this process, for tests.
    package convenience init(id: UInt32, inThisProcess descriptor: FileDescriptor) throws(SyscallError) {
        self.init(
            id: id, descriptor: descriptor, process: .current, number: descriptor.number, status: try descriptor.status(),
            flags: UInt32(try descriptor.control(F_GETFL)), link: try Files.link("/proc/self/fd/\(descriptor.number)"))
    }

    /// /proc/PID/fdinfo/N: costs 5 to 9 µs, so ask only where no other call tells.
    package func info() throws(SyscallError) -> KeyedLines {
        if let cachedInfo { return cachedInfo }
        let read = try Proc.descriptorInfo(descriptor.number, of: .current)
        cachedInfo = read
        return read
    }
    package var position: UInt64 {
        get throws(SyscallError) { UInt64(bitPattern: Int64(try descriptor.seek(0, SEEK_CUR))) }
    }
    package var subject: CheckpointError.Subject { .descriptor(number, path: link, of: process) }

    /// Who gets SIGIO (fcntl(2): F_GETOWN_EX, F_GETSIG, F_GETOWNER_UIDS). All zero when nobody does.
    package func owner() throws(SyscallError) -> FownEntry { try FileOwner.dump(descriptor) }
}

/// F_SETOWN and F_SETSIG of an open file description (fcntl(2)); uid and euid are those of who set it.
package enum FileOwner {
    static let getOwnerEx: Int32 = 16, setOwnerEx: Int32 = 15, getOwnerUIDs: Int32 = 17
    struct OwnerEx { var type: Int32 = 0, pid: Int32 = 0 }

    package static func dump(_ descriptor: FileDescriptor) throws(SyscallError) -> FownEntry {
        var entry = FownEntry()
        var owner = OwnerEx()
        try Syscall.call("fcntl(F_GETOWN_EX)", SYS_fcntl_number, value: &owner, at: 2, Int(descriptor.number), Int(getOwnerEx), on: .fd(descriptor.number))
        var uids: (UInt32, UInt32) = (0, 0)
        if owner.pid != 0 {
            try Syscall.call("fcntl(F_GETOWNER_UIDS)", SYS_fcntl_number, value: &uids, at: 2, Int(descriptor.number), Int(getOwnerUIDs), on: .fd(descriptor.number))
        }
        entry.uid = uids.0
        entry.euid = uids.1
        entry.signum = UInt32(try descriptor.control(F_GETSIG_number))
        entry.pidType = owner.pid == 0 ? 0 : UInt32(owner.type)
        entry.pid = UInt32(bitPattern: owner.pid)
        return entry
    }

    /// The kernel takes the uids of whoever calls: they are ours for the moment of the call.
    package static func restore(_ entry: FownEntry, on descriptor: FileDescriptor) throws(SyscallError) {
        if entry.signum != 0 { try descriptor.control(F_SETSIG_number, Int(entry.signum)) }
        if entry.pid == 0 { return }
        let mine = geteuid(), real = getuid()
        let other = entry.uid != real || entry.euid != mine
        if other { try Syscall.call("setresuid", SYS_setresuid_number, Int(entry.uid), Int(entry.euid), Int(mine)) }
        defer { if other { _ = try? Syscall.call("setresuid", SYS_setresuid_number, Int(real), Int(mine), Int(mine)) } }
        var owner = OwnerEx(type: Int32(entry.pidType), pid: Int32(bitPattern: entry.pid))
        try Syscall.call("fcntl(F_SETOWN_EX)", SYS_fcntl_number, value: &owner, at: 2, Int(descriptor.number), Int(setOwnerEx), on: .fd(descriptor.number))
    }
    private static let SYS_fcntl_number: Int32 = 72, SYS_setresuid_number: Int32 = 117, F_GETSIG_number: Int32 = 11, F_SETSIG_number: Int32 = 10
}
