import CLinux
import Glibc
import ImageMessages
import Images
import Linux

/// Files without any name that the tree holds open: saved with their content in ghost-file-<id, hexadecimal>.img, made again for
/// the moment of opening (format README 11.4, GHOST).
enum GhostFiles {
    /// From this size on the content is saved in pieces, and holes are left out.
    static let chunkedFrom: Int64 = 12288
    private static let pieceSize = 1 << 20

    static func imageName(_ id: UInt32) -> String { "ghost-file-\(String(id, radix: 16)).img" }

    // MARK: Dump

    final class Saved: DumpState {
        var ids: [InodeKey: UInt32] = [:]
        init() {}
    }

    /// The ghost's id; one for all open files of the inode.
    static func save(_ found: PathFiles.Found, _ path: String, _ context: DumpContext) throws -> UInt32 {
        let saved = context.state(of: Saved.self)
        if let id = saved.ids[InodeKey(found.status)] { return id }
        let status = found.status
        let taken = UInt64(max(0, status.blocks)).multipliedReportingOverflow(by: 512).partialValue
        if status.type == S_IFREG && taken > context.settings.ghostLimit {
            throw CheckpointError(
                "dump", found.subject,
                "Can't dump ghost file \(path) of \(status.size) size, increase limit: it was removed, and its \(taken) bytes on disk are more than the \(context.settings.ghostLimit) that a ghost may have",
                remedy: "raise the limit with --ghost-limit \(taken)", option: "--ghost-limit \(taken)")
        }
        let id = UInt32(saved.ids.count + 1)
        if context.readsContent { try CheckpointError.about("dump", found.subject) { try write(id, found, context) } }
        saved.ids[InodeKey(status)] = id
        return id
    }

    private static func write(_ id: UInt32, _ found: PathFiles.Found, _ context: DumpContext) throws {
        let status = found.status, name = imageName(id)
        var entry = GhostFileEntry()
        (entry.uid, entry.gid, entry.mode) = (status.uid, status.gid, status.mode)
        (entry.dev, entry.ino) = (FileStatus.kernelDevice(status.device), status.inode)
        (entry.atim, entry.mtim) = (time(status.accessed), time(status.modified))
        switch status.type {
        case S_IFCHR, S_IFBLK: entry.rdev = UInt32(truncatingIfNeeded: status.rdev)
        case S_IFLNK: entry.symlnkTarget = try Files.link("", at: found.descriptor.number)
        case S_IFREG:
            let content = try FileDescriptor.open(found.descriptor.procPath, O_RDONLY | OpenFlags.noAccessTime)
            if status.size < chunkedFrom {
                try context.images.append(name, entry, payload: try content.readAll(expecting: Int(chunkedFrom)))
            } else {
                (entry.chunks, entry.size) = (true, UInt64(status.size))
                try context.images.append(name, entry)
                try writeChunks(of: content, to: name, context)
            }
            return
        default: break
        }
        try context.images.append(name, entry)
    }

    /// Areas with data, ascending. Holes are told by FIEMAP, many at a time, or one by one by lseek(2) (--no-ghost-fiemap, and where the file system knows no FIEMAP).
    private static func writeChunks(of content: FileDescriptor, to name: String, _ context: DumpContext) throws {
        let unknown = [FileDescriptor.Extent(area: 0..<Int.max, isReserved: true)]
        for extent in context.settings.ghostFiemap ? (try? content.extents()) ?? unknown : unknown {
            var at = extent.area.lowerBound
            while at < extent.area.upperBound {
                var end = extent.area.upperBound
                if extent.isReserved {
                    do throws(SyscallError) { at = try content.seek(at, SEEK_DATA_number) }
                    catch { if error.errno.rawValue == ENXIO { return } else { throw error } }
                    if at >= end { break }
                    end = min(try content.seek(at, SEEK_HOLE_number), end)
                }
                while at < end {
                    let bytes = try content.read(min(end - at, pieceSize), at: at)
                    if bytes.isEmpty { return }
                    var chunk = GhostChunkEntry()
                    (chunk.len, chunk.off) = (UInt64(bytes.count), UInt64(at))
                    try context.images.append(name, chunk, payload: bytes)
                    at += bytes.count
                }
            }
        }
    }
    private static let SEEK_DATA_number: Int32 = 3, SEEK_HOLE_number: Int32 = 4

    private static func time(_ time: (Int64, Int64)) -> Timeval {
        var value = Timeval()
        value.tvSec = UInt64(bitPattern: time.0)
        value.tvUsec = UInt64(time.1 / 1000)
        return value
    }

    // MARK: Restore

    /// A ghost that exists, without a name, held by O_PATH descriptors.
    final class Ghost {
        let status: FileStatus
        let device: UInt32?, inode: UInt64?
        /// One for each name it was known by: what /proc/PID/fd tells of an open file is the name it was opened by.
        var anchors: [String: FileDescriptor] = [:]
        /// Opened with O_NOFOLLOW, which works by name only, so at once. By file id.
        var opened: [UInt32: FileDescriptor] = [:]
        init(_ status: FileStatus, _ entry: GhostFileEntry) {
            self.status = status
            (device, inode) = (entry.hasDev ? entry.dev : nil, entry.hasIno ? entry.ino : nil)
        }
    }
    final class Made: DumpState {
        var ghosts: [UInt32: Ghost] = [:]
        init() {}
    }

    static func open(_ id: UInt32, _ entry: RegFileEntry, _ flags: UInt32, _ context: RestoreContext) throws -> FileDescriptor {
        let ghost = try ghost(id, context)
        if flags & OpenFlags.noFollow != 0, let opened = ghost.opened.removeValue(forKey: entry.id) { return opened }
        guard let anchor = ghost.anchors[entry.name] else {
            throw CheckpointError("restore", .image(imageName(id)), "no file of this ghost is called \(entry.name)")
        }
        return try PathFiles.open(anchor.procPath, ghost.status.mode, flags & ~OpenFlags.noFollow)
    }

    /// Whether its content is in the images, and its file system has room for it.
    static func check(_ id: UInt32, _ entry: RegFileEntry, _ context: RestoreContext) throws {
        let image = imageName(id)
        try CheckpointError.about("restore", .image(image)) {
            try checkRoom(UInt64(try context.images.size(of: image)), below: entry.name)
        }
    }

    private static func checkRoom(_ bytes: UInt64, below name: String) throws {
        guard let folder = try? FileDescriptor.open(PathName.split(name).0, Int32(bitPattern: OpenFlags.path)), let room = try? FileSystemStatus(folder).freeBytes, bytes > room else { return }
        throw CheckpointError(
            "restore", .file(name), "it was deleted, and to make it again takes \(bytes) bytes, of which its file system has \(room)", remedy: "free some room there", errno: Errno(ENOSPC))
    }

    static func ghost(_ id: UInt32, _ context: RestoreContext) throws -> Ghost {
        let made = context.state(of: Made.self)
        if let ghost = made.ghosts[id] { return ghost }
        let image = imageName(id)
        let files = try Remaps.load(context).byFile.filter { $0.value == .ghost(id) }.keys.sorted().compactMap { context.files[$0]?.reg }
        for file in files where !file.name.hasPrefix("/") || file.name.utf8.contains(0) {
            throw CheckpointError("restore", .image("files.img"), "file id \(file.id): its name '\(file.name)' is no absolute path")
        }
        guard !files.isEmpty else { throw CheckpointError("restore", .image(image), "no file refers to this ghost") }
        try check(id, files[0], context)
        let ghost = try CheckpointError.about("restore", .image(image)) {
            var reader = try context.images.reader(image)
            let entry = try reader.single(GhostFileEntry.self)
            return try make(id, entry, files) { file in try fill(file, entry, &reader) }
        }
        made.ghosts[id] = ghost
        return ghost
    }

    /// Makes the file under its names, opens it by each and removes the names again: nothing of it is ever left, whatever fails.
    private static func make(
        _ id: UInt32, _ entry: GhostFileEntry, _ files: [RegFileEntry], _ fill: (FileDescriptor) throws -> Void
    ) throws -> Ghost {
        var names = TemporaryNames()
        defer { names.removeAll() }
        let first = try names.add(files[0].name, ghost: id) { path throws in try create(path, entry) }
        if entry.mode & S_IFMT == S_IFREG { try fill(try FileDescriptor.open(first, O_WRONLY)) }
        try setAttributes(first, entry)
        let ghost = Ghost(try Files.status(first, followLinks: false), entry)
        for file in files where ghost.anchors[file.name] == nil {
            var path = first
            if file.name != files[0].name && ghost.status.type != S_IFDIR {
                path = try names.add(file.name, ghost: id) { path throws in try Files.makeLink(path, to: first) }
            }
            ghost.anchors[file.name] = try FileDescriptor.open(path, Int32(bitPattern: OpenFlags.path) | O_NOFOLLOW)
            for other in files where other.name == file.name && other.flags & OpenFlags.noFollow != 0 {
                ghost.opened[other.id] = try PathFiles.open(path, ghost.status.mode, other.flags)
            }
        }
        return ghost
    }

    /// The content of a regular file: raw bytes, or pieces between holes.
    private static func fill(_ file: FileDescriptor, _ entry: GhostFileEntry, _ reader: inout ImageReader) throws {
        guard entry.chunks else {
            try file.write(try reader.payload(UInt64(reader.position.left)))
            return
        }
        guard entry.hasSize, entry.size <= UInt64(Int64.max) else { throw ImageError(reader.name, entry: 0, field: "size", "it is missing or out of range") }
        try file.truncate(to: UInt64(entry.size))
        var index = 1
        while let chunk = try reader.next(GhostChunkEntry.self) {
            let (end, overflow) = chunk.off.addingReportingOverflow(chunk.len)
            guard !overflow, end <= entry.size else {
                throw ImageError(reader.name, entry: index, field: "off", "\(chunk.len) bytes at \(chunk.off) do not fit a file of \(entry.size)")
            }
            try file.write(try reader.payload(chunk.len), at: Int(chunk.off))
            index += 1
        }
    }

    /// mknod(2), mkdir(2), symlink(2) or open(2): never over something that exists.
    private static func create(_ path: String, _ entry: GhostFileEntry) throws {
        switch entry.mode & S_IFMT {
        case S_IFREG: _ = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
        case S_IFDIR: try Syscall.call("mkdir", SYS_mkdirat, path: path, at: 1, Int(AT_FDCWD), 0o700)
        case S_IFIFO, S_IFCHR, S_IFBLK, S_IFSOCK:
            try Syscall.call("mknod", SYS_mknodat, path: path, at: 1, Int(AT_FDCWD), Int(entry.mode & S_IFMT | 0o600), Int(entry.rdev))
        case S_IFLNK: try Files.makeSymbolicLink(path, target: entry.symlnkTarget)
        default: throw SyscallError("create a file of mode 0\(String(entry.mode, radix: 8))", .path(path), EINVAL)
        }
    }

    /// Owner before mode (chown(2) clears set-user-ID), times last.
    private static func setAttributes(_ path: String, _ entry: GhostFileEntry) throws(SyscallError) {
        let noFollow = Int(AT_SYMLINK_NOFOLLOW)
        try Syscall.call("chown", SYS_fchownat, path: path, at: 1, Int(AT_FDCWD), Int(entry.uid), Int(entry.gid), noFollow)
        if entry.mode & S_IFMT != S_IFLNK { try Syscall.call("chmod", SYS_fchmodat, path: path, at: 1, Int(AT_FDCWD), Int(entry.mode & 0o7777)) }
        guard entry.hasAtim && entry.hasMtim else { return }
        func time(_ time: Timeval) -> (Int, Int) { (Int(truncatingIfNeeded: time.tvSec), Int(min(time.tvUsec, 999_999)) * 1000) }
        try Files.setTimes(path, access: time(entry.atim), change: time(entry.mtim))
    }
}

/// Names that exist for a moment only, with the directories made for them.
struct TemporaryNames {
    private var names: [(path: String, isDirectory: Bool)] = []

    /// Makes a file by `create` at `wanted` or, where something stands there, under another name beside it.
    mutating func add(_ wanted: String, ghost id: UInt32, _ create: (String) throws -> Void) throws -> String {
        try makeDirectories(above: wanted)
        for path in [wanted] + (0..<1000).map({ "\(wanted).stasis-ghost-\(String(id, radix: 16)).\($0)" }) {
            do {
                try create(path)
                names.append((path, (try? Files.status(path, followLinks: false))?.type == S_IFDIR))
                return path
            } catch let error as SyscallError where error.errno.rawValue == EEXIST { continue }
        }
        throw SyscallError("create", .path(wanted), EEXIST)
    }

    private mutating func makeDirectories(above path: String) throws(SyscallError) {
        let directory = PathName.split(path).directory
        if directory == "/" || (try? Files.status(directory)) != nil { return }
        try makeDirectories(above: directory)
        try Syscall.call("mkdir", SYS_mkdirat, path: directory, at: 1, Int(AT_FDCWD), 0o755)
        names.append((directory, true))
    }

    mutating func removeAll() {
        for name in names.reversed() { try? Files.unlink(name.path, flags: name.isDirectory ? AT_REMOVEDIR : 0) }
        names = []
    }
}
