import CLinux
public import Glibc

/// Names of files, made and changed.
extension Files {
    /// linkat(2).
    public static func makeLink(_ path: String, to existing: String, flags: Int32 = 0) throws(SyscallError) {
        try withBoth(existing, path, "linkat") { unsafe Syscall.raw(SYS_linkat, Int(AT_FDCWD), $0, Int(AT_FDCWD), $1, Int(flags)) }
    }
    /// A name for an open file that has at least one already. Through /proc, for AT_EMPTY_PATH wants CAP_DAC_READ_SEARCH.
    public static func makeLink(_ path: String, to file: FileDescriptor) throws(SyscallError) { try makeLink(path, to: file.procPath, flags: AT_SYMLINK_FOLLOW) }

    /// symlinkat(2).
    public static func makeSymbolicLink(_ path: String, target: String, in directory: Int32 = AT_FDCWD) throws(SyscallError) {
        try withBoth(target, path, "symlink") { unsafe Syscall.raw(SYS_symlinkat, $0, Int(directory), $1) }
    }

    /// renameat(2) within one directory, replacing what has the new name.
    public static func rename(_ old: String, to new: String, in directory: Int32) throws(SyscallError) {
        try withBoth(old, new, "rename") { unsafe Syscall.raw(SYS_renameat2, Int(directory), $0, Int(directory), $1) }
    }

    /// Times of last access and change, of a symbolic link itself, too (utimensat(2)).
    public static func setTimes(_ path: String, access: (seconds: Int, nanoseconds: Int), change: (seconds: Int, nanoseconds: Int)) throws(SyscallError) {
        var times = (access.seconds, access.nanoseconds, change.seconds, change.nanoseconds)
        let result: Int = unsafe path.withCString { path in
            unsafe withUnsafeMutablePointer(to: &times) { unsafe Syscall.raw(SYS_utimensat, Int(AT_FDCWD), Int(bitPattern: path), Int(bitPattern: $0), Int(AT_SYMLINK_NOFOLLOW)) }
        }
        if result < 0 { throw SyscallError("utimensat", .path(path), Int32(-result)) }
    }

    private static func withBoth(_ first: String, _ second: String, _ call: String, _ body: (Int, Int) -> Int) throws(SyscallError) {
        let result = unsafe first.withCString { first in unsafe second.withCString { body(Int(bitPattern: first), Int(bitPattern: $0)) } }
        if result < 0 { throw SyscallError(call, .path(second), Int32(-result)) }
    }
}
