import CLinux
import Glibc

extension Files {
    /// rename(2).
    public static func rename(_ from: String, to: String) throws(SyscallError) {
        let result: Int = unsafe from.withCString { old in
            unsafe to.withCString { unsafe Syscall.raw(SYS_rename, Int(bitPattern: old), Int(bitPattern: $0)) }
        }
        if result < 0 { throw SyscallError("rename", .path(from), Int32(-result)) }
    }
    /// chmod(2); follows links.
    public static func setMode(_ path: String, _ mode: UInt32) throws(SyscallError) {
        try Syscall.call("chmod", SYS_fchmodat, path: path, at: 1, Int(AT_FDCWD), Int(mode))
    }
    /// chown(2); follows links.
    public static func setOwner(_ path: String, uid: UInt32, gid: UInt32) throws(SyscallError) {
        try Syscall.call("chown", SYS_fchownat, path: path, at: 1, Int(AT_FDCWD), Int(uid), Int(gid), 0)
    }
    /// mkdir(2).
    public static func makeDirectory(_ path: String, mode: UInt32 = 0o755) throws(SyscallError) {
        try Syscall.call("mkdir", SYS_mkdirat, path: path, at: 1, Int(AT_FDCWD), Int(mode))
    }
    /// fchdir(2): the working directory of this whole process.
    public static func enter(_ directory: FileDescriptor) throws(SyscallError) {
        try Syscall.call("fchdir", SYS_fchdir, Int(directory.number), on: .fd(directory.number))
    }
}
