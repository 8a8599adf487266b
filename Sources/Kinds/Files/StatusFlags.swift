package import Linux

/// Open file status flags, as F_GETFL shows them (fcntl(2), open(2); numbers of asm-generic/fcntl.h).
package enum StatusFlags {
    package static let accessMode: UInt32 = 3, writeOnly: UInt32 = 1, readWrite: UInt32 = 2
    package static let append: UInt32 = 0o2000, nonblocking: UInt32 = 0o4000, async: UInt32 = 0o20000, direct: UInt32 = 0o40000
    /// The kernel sets it in every open(2) of a 64-bit program, but not in pipe2(2) and its like.
    package static let largeFile: UInt32 = 0o100000
    /// What F_SETFL can change.
    package static let changeable: UInt32 = append | nonblocking | async | direct | 0o1000000 /* O_NOATIME */
    /// What open(2) does once and the file then forgets, or what does not concern a magic link.
    static let onlyWhenOpening: UInt32 = 0o100 | 0o200 | 0o400 | 0o1000 /* O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC */
}

extension FileDescriptor {
    /// Gives the open file the changeable ones of `wanted`, and takes away those it should not have.
    package func setStatusFlags(_ wanted: UInt32) throws(SyscallError) {
        let now = UInt32(truncatingIfNeeded: try control(3 /* F_GETFL */))
        let next = now & ~StatusFlags.changeable | wanted & StatusFlags.changeable
        if next != now { try control(4 /* F_SETFL */, Int(next)) }
    }

    /// A new open file description of the same file, through the magic link (proc(5)): also where no path leads to it.
    package func reopened(_ flags: UInt32) throws(SyscallError) -> FileDescriptor {
        try FileDescriptor.open(procPath, Int32(bitPattern: flags & ~(StatusFlags.onlyWhenOpening | StatusFlags.async)))
    }
}
