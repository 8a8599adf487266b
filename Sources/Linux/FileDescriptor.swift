public import Glibc
import CLinux

/// A descriptor of this process with one owner, closed when the last reference goes. Everything is opened with O_CLOEXEC.
public final class FileDescriptor: Sendable {
    public let number: Int32
    public init(owning number: Int32) { self.number = number }
    deinit { _ = unsafe Syscall.raw(SYS_close, Int(number)) }

    /// openat(2) relative to `directory` (AT_FDCWD: the current one). O_CLOEXEC is added.
    public static func open(
        _ path: String, _ flags: Int32, mode: UInt32 = 0o600, at directory: Int32 = AT_FDCWD
    ) throws(SyscallError) -> FileDescriptor {
        FileDescriptor(owning: Int32(try Syscall.call(
            "openat", SYS_openat, path: path, at: 1, Int(directory), Int(flags | O_CLOEXEC), Int(mode))))
    }

    /// memfd_create(2); `flags` as there, MFD_CLOEXEC is added. Executable ones must say so (MFD_EXEC) since Linux 6.3; before, all are.
    public static func memory(_ name: String, flags: UInt32 = 0, executable: Bool = false) throws(SyscallError) -> FileDescriptor {
        func make(_ flags: UInt32) throws(SyscallError) -> FileDescriptor {
            FileDescriptor(owning: Int32(try Syscall.call("memfd_create", SYS_memfd_create, path: name, at: 0, Int(flags | 1))))
        }
        guard executable else { return try make(flags) }
        do throws(SyscallError) { return try make(flags | 0x10) } catch {
            guard error.errno == Errno(EINVAL) else { throw error }
            return try make(flags)
        }
    }

    /// The descriptor `number` of another process, pidfd_getfd(2): the same open file description.
    public static func duplicate(_ number: Int32, ofProcess pidfd: FileDescriptor) throws(SyscallError) -> FileDescriptor {
        FileDescriptor(owning: Int32(try Syscall.call(
            "pidfd_getfd", SYS_pidfd_getfd, Int(pidfd.number), Int(number), on: .fd(number))))
    }

    /// pidfd_open(2) on a process, or on another of its threads (Linux 6.9 or later).
    public static func process(_ id: ThreadID) throws(SyscallError) -> FileDescriptor {
        do throws(SyscallError) { return FileDescriptor(owning: Int32(try Syscall.call("pidfd_open", SYS_pidfd_open, Int(id.rawValue), on: .task(id)))) } catch {
            // EINVAL, since 6.9 ENOENT: it leads no thread group.
            guard error.errno == Errno(EINVAL) || error.errno == Errno(ENOENT) else { throw error }
            return FileDescriptor(owning: Int32(try Syscall.call("pidfd_open(PIDFD_THREAD)", SYS_pidfd_open, Int(id.rawValue), Int(O_EXCL), on: .task(id))))
        }
    }

    /// pipe2(2); `flags` as there, O_CLOEXEC is added.
    public static func pipe(flags: Int32 = 0) throws(SyscallError) -> (reading: FileDescriptor, writing: FileDescriptor) {
        var ends: (Int32, Int32) = (-1, -1)
        try Syscall.call("pipe2", SYS_pipe2, value: &ends, at: 0, Int(O_CLOEXEC | flags))
        return (FileDescriptor(owning: ends.0), FileDescriptor(owning: ends.1))
    }

    public func duplicate() throws(SyscallError) -> FileDescriptor {
        FileDescriptor(owning: Int32(try Syscall.call(
            "fcntl(F_DUPFD_CLOEXEC)", SYS_fcntl, Int(number), Int(F_DUPFD_CLOEXEC), 3, on: .fd(number))))
    }

    /// Whether both are one open file description, kcmp(2).
    public func isSameOpenFile(as other: FileDescriptor) throws(SyscallError) -> Bool {
        let process = Int(getpid())
        return try Syscall.call("kcmp", SYS_kcmp, process, process, 0 /* KCMP_FILE */, Int(number), Int(other.number), on: .fd(number)) == 0
    }

    /// fcntl(2) with a number as argument.
    @discardableResult
    public func control(_ command: Int32, _ argument: Int = 0) throws(SyscallError) -> Int {
        try Syscall.call("fcntl(\(command))", SYS_fcntl, Int(number), Int(command), argument, on: .fd(number))
    }

    /// ftruncate(2).
    public func truncate(to size: UInt64) throws(SyscallError) { try Syscall.call("ftruncate", SYS_ftruncate, Int(number), Int(clamping: size), on: .fd(number)) }

    /// ioctl(2) with a number as argument.
    @discardableResult
    public func ioctl(_ name: @autoclosure () -> String, _ request: UInt, _ argument: Int = 0) throws(SyscallError) -> Int {
        try Syscall.call("ioctl(\(name()))", SYS_ioctl, Int(number), Int(request), argument, on: .fd(number))
    }

    /// ioctl(2) that reads or fills `value`.
    @discardableResult
    public func ioctl<Value>(_ name: @autoclosure () -> String, _ request: UInt, _ value: inout Value) throws(SyscallError) -> Int {
        try Syscall.call("ioctl(\(name()))", SYS_ioctl, value: &value, at: 2, Int(number), Int(request), on: .fd(number))
    }

    public func status() throws(SyscallError) -> FileStatus {
        var raw = stat()
        try Syscall.call("fstat", SYS_fstat, value: &raw, at: 1, Int(number), on: .fd(number))
        return FileStatus(raw)
    }

    /// One read(2) of at most `count` bytes, from `offset` where given (pread).
    public func read(_ count: Int, at offset: Int? = nil) throws(SyscallError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let got = if let offset {
            try Syscall.call("pread", SYS_pread64, bytes: &bytes, at: 1, Int(number), count, offset, on: .fd(number))
        } else {
            try Syscall.call("read", SYS_read, bytes: &bytes, at: 1, Int(number), count, on: .fd(number))
        }
        bytes.removeLast(count - got)
        return bytes
    }

    /// One read(2) into `bytes`, from place `start` in them to their end, of at most `most`. Answers how many came.
    public func read(into bytes: inout [UInt8], from start: Int, atMost most: Int = .max) throws(SyscallError) -> Int {
        precondition(start < bytes.count)
        let number = self.number
        return try Syscall.check("read", .fd(number)) {
            unsafe bytes.withUnsafeMutableBytes { unsafe Syscall.raw(SYS_read, Int(number), Int(bitPattern: $0.baseAddress! + start), min($0.count - start, most)) }
        }
    }

    /// Everything up to end of file, from the current position.
    public func readAll(expecting hint: Int = 4096) throws(SyscallError) -> [UInt8] {
        var bytes = [UInt8]()
        var chunk = [UInt8](repeating: 0, count: max(hint, 512))
        while true {
            let got = try Syscall.call("read", SYS_read, bytes: &chunk, at: 1, Int(number), chunk.count, on: .fd(number))
            if got == 0 { return bytes }
            bytes.append(contentsOf: chunk[..<got])
            if got == chunk.count && chunk.count < 1 << 20 { chunk = [UInt8](repeating: 0, count: chunk.count * 4) }
        }
    }

    /// Writes all of `bytes`, at `offset` where given (pwrite).
    public func write(_ bytes: [UInt8], at offset: Int? = nil) throws(SyscallError) {
        var done = 0
        let number = self.number
        while done < bytes.count {
            let start = done
            done += try Syscall.check("write", .fd(number)) {
                unsafe bytes.withUnsafeBytes { buffer in
                    let address = unsafe Int(bitPattern: buffer.baseAddress! + start)
                    return if let offset {
                        unsafe Syscall.raw(SYS_pwrite64, Int(number), address, buffer.count - start, offset + start)
                    } else { unsafe Syscall.raw(SYS_write, Int(number), address, buffer.count - start) }
                }
            }
        }
    }

    /// lseek(2).
    @discardableResult
    public func seek(_ offset: Int, _ whence: Int32 = SEEK_SET) throws(SyscallError) -> Int {
        try Syscall.call("lseek", SYS_lseek, Int(number), offset, Int(whence), on: .fd(number))
    }

    /// The path by which this process reaches the open file again: a magic link, proc(5).
    public var procPath: String { "/proc/self/fd/\(number)" }
}

/// What stat(2) tells of a file.
public struct FileStatus: Equatable, Sendable {
    public let device: UInt64, inode: UInt64, mode: UInt32, links: UInt64, uid: UInt32, gid: UInt32, rdev: UInt64, size: Int64, blocks: Int64
    public let accessed: (Int64, Int64), modified: (Int64, Int64)
    public init(_ raw: stat) {
        (device, inode, mode, links) = (UInt64(raw.st_dev), UInt64(raw.st_ino), raw.st_mode, UInt64(raw.st_nlink))
        (uid, gid, rdev, size, blocks) = (raw.st_uid, raw.st_gid, UInt64(raw.st_rdev), Int64(raw.st_size), Int64(raw.st_blocks))
        accessed = (Int64(raw.st_atim.tv_sec), Int64(raw.st_atim.tv_nsec))
        modified = (Int64(raw.st_mtim.tv_sec), Int64(raw.st_mtim.tv_nsec))
    }
    public var type: UInt32 { mode & S_IFMT }
    public static func == (a: FileStatus, b: FileStatus) -> Bool {
        a.device == b.device && a.inode == b.inode && a.mode == b.mode && a.size == b.size
    }
    /// major << 20 | minor: how the images and mountinfo-based names write devices (include/linux/kdev_t.h).
    public static func kernelDevice(_ device: UInt64) -> UInt32 {
        let major = UInt32((device >> 8) & 0xfff) | UInt32((device >> 32) & ~0xfff & 0xffff_ffff)
        let minor = UInt32(device & 0xff) | UInt32((device >> 12) & 0xffff_ff00)
        return major << 20 | minor
    }
}

public enum Files {
    /// stat(2), or lstat(2) when `followLinks` is false.
    public static func status(_ path: String, at directory: Int32 = AT_FDCWD, followLinks: Bool = true) throws(SyscallError) -> FileStatus {
        var raw = stat()
        let flags = followLinks ? 0 : Int(AT_SYMLINK_NOFOLLOW)
        let result: Int = unsafe path.withCString { text in
            unsafe withUnsafeMutablePointer(to: &raw) {
                unsafe Syscall.raw(SYS_newfstatat, Int(directory), Int(bitPattern: text), Int(bitPattern: $0), flags)
            }
        }
        if result < 0 { throw SyscallError("stat", .path(path), Int32(-result)) }
        return FileStatus(raw)
    }

    /// Whether we may read or write what stands at a path (faccessat2(2), by effective ids).
    public static func checkAccess(_ path: String, writing: Bool) throws(SyscallError) {
        try Syscall.call("faccessat2", 439, path: path, at: 1, Int(AT_FDCWD), writing ? 2 : 4, 0x200)
    }

    /// readlink(2); bytes that are not UTF-8 are replaced.
    public static func link(_ path: String, at directory: Int32 = AT_FDCWD) throws(SyscallError) -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let result: Int = unsafe path.withCString { text in
            unsafe buffer.withUnsafeMutableBytes {
                unsafe Syscall.raw(SYS_readlinkat, Int(directory), Int(bitPattern: text), Int(bitPattern: $0.baseAddress), 4096)
            }
        }
        if result < 0 { throw SyscallError("readlink", .path(path), Int32(-result)) }
        return String(decoding: buffer[..<result], as: UTF8.self)
    }

    /// The whole content of a file such as those of proc(5).
    public static func read(_ path: String, at directory: Int32 = AT_FDCWD, expecting hint: Int = 4096) throws(SyscallError) -> [UInt8] {
        do throws(SyscallError) { return try FileDescriptor.open(path, O_RDONLY, at: directory).readAll(expecting: hint) }
        catch {
            if case .path = error.operand { throw error }
            throw SyscallError("read", .path(path), error.errno.rawValue)
        }
    }

    /// A file of proc(5) that the kernel writes out whole at the first read, as it does for those of one task that are no
    /// lists (single_open, fs/seq_file.c): one read where `read` needs a second one to see the end.
    public static func readAtOnce(_ path: String) throws(SyscallError) -> [UInt8] {
        let bytes = try FileDescriptor.open(path, O_RDONLY).read(4096)
        return bytes.count < 4096 ? bytes : try read(path, expecting: 16384)
    }

    public static func text(_ path: String, at directory: Int32 = AT_FDCWD) throws(SyscallError) -> String {
        String(decoding: try read(path, at: directory), as: UTF8.self)
    }

    /// The number that a file of /proc/sys holds.
    public static func number(_ path: String) -> UInt64? { (try? text(path)).flatMap { UInt64($0.split(separator: "\n").first ?? "") } }

    /// Names in a directory, without "." and "..", in the order the kernel gives them (getdents64(2)).
    public static func names(in path: String, at directory: Int32 = AT_FDCWD) throws(SyscallError) -> [String] {
        let opened = try FileDescriptor.open(path, O_RDONLY | O_DIRECTORY, at: directory)
        var names = [String]()
        var buffer = [UInt8](repeating: 0, count: 32768)
        while true {
            let got = try Syscall.call("getdents64", SYS_getdents64, bytes: &buffer, at: 1, Int(opened.number), buffer.count, on: .path(path))
            if got == 0 { return names }
            var at = 0
            while at < got {
                let length = Int(buffer[at + 16]) | Int(buffer[at + 17]) << 8
                let text = buffer[(at + 19)..<(at + length)].prefix { $0 != 0 }
                let name = String(decoding: text, as: UTF8.self)
                if name != "." && name != ".." { names.append(name) }
                at += length
            }
        }
    }

    public static func unlink(_ path: String, at directory: Int32 = AT_FDCWD, flags: Int32 = 0) throws(SyscallError) {
        try Syscall.call("unlink", SYS_unlinkat, path: path, at: 1, Int(directory), Int(flags))
    }

    public static func write(_ text: String, to path: String, flags: Int32 = O_WRONLY) throws(SyscallError) {
        do throws(SyscallError) { try FileDescriptor.open(path, flags, mode: 0o644).write(Array(text.utf8)) }
        catch {
            if case .path = error.operand { throw error }
            throw SyscallError("write", .path(path), error.errno.rawValue)
        }
    }
}
