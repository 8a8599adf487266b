import CLinux
import Glibc
package import ImageMessages
package import Linux

/// Files reached by a path, as REG entries (format README 11.3): what descriptors, mappings, executables, working and root
/// directories have in common. A path that no longer leads to its file gets a remap (Remaps.swift).
package enum PathFiles {
    /// One such file at the moment of its dump.
    struct Found {
        let id: UInt32
        /// Of ours; with O_PATH where there is no open file description of the tree.
        let descriptor: FileDescriptor
        let status: FileStatus
        /// F_GETFL of the tree's open file; 0 where there is none.
        var flags: UInt32 = 0
        /// The path by the kernel's word: readlink of a link in /proc/PID.
        let link: String
        let subject: CheckpointError.Subject
        /// Whether a task runs or reads its memory from it: then its build id counts.
        var mapped = false
    }

    /// Ids of files that no descriptor stands for. Mappings of one file share an id; descriptors and directories never do (format README 3).
    final class Known: DumpState {
        struct Key: Hashable { let device: UInt32, inode: UInt64, name: String }
        var ids: [Key: UInt32] = [:]
        init() {}
    }

    // MARK: Dump

    /// The file id of a mapping: its REG entry is written when it is the first one of this file.
    package static func fileID(mapping: Mapping, of process: ThreadID, context: DumpContext) throws -> UInt32 {
        let known = context.state(of: Known.self)
        let key = Known.Key(device: mapping.major << 20 | mapping.minor, inode: mapping.inode, name: mapping.name)
        if let id = known.ids[key] { return id }
        let range = "\(String(mapping.start, radix: 16))-\(String(mapping.end, radix: 16))"
        let subject = CheckpointError.Subject.mapping(mapping.start..<mapping.end, name: mapping.name, of: process)
        let id = try save("/proc/\(process)/map_files/\(range)", subject, mapped: true, context)
        known.ids[key] = id
        return id
    }

    /// The file id of the program a process runs.
    package static func executableID(of process: ThreadID, context: DumpContext) throws -> UInt32 {
        let known = context.state(of: Known.self)
        let path = "/proc/\(process)/exe"
        return try CheckpointError.about("dump", .task(process)) {
            let status = try Files.status(path)
            let key = Known.Key(device: FileStatus.kernelDevice(status.device), inode: status.inode, name: try Files.link(path))
            if let id = known.ids[key] { return id }
            let id = try save(path, .object("the program (\(key.name)) of task \(process)"), mapped: true, context)
            known.ids[key] = id
            return id
        }
    }

    package static func workingDirectoryID(of process: ThreadID, context: DumpContext) throws -> UInt32 {
        try save("/proc/\(process)/cwd", .object("the working directory of task \(process)"), mapped: false, context)
    }
    package static func rootDirectoryID(of process: ThreadID, context: DumpContext) throws -> UInt32 {
        try save("/proc/\(process)/root", .object("the root directory of task \(process)"), mapped: false, context)
    }

    /// Saves the file that a magic link of proc(5) leads to, under a new id.
    private static func save(_ link: String, _ subject: CheckpointError.Subject, mapped: Bool, _ context: DumpContext) throws -> UInt32 {
        try CheckpointError.about("dump", subject) {
            let descriptor = try FileDescriptor.open(link, O_PATH_flag)
            let found = Found(
                id: context.newFileID(), descriptor: descriptor, status: try descriptor.status(),
                link: try Files.link(descriptor.procPath), subject: subject, mapped: mapped)
            var entry = FileEntry()
            entry.type = .reg
            entry.id = found.id
            entry.reg = try dump(found, context)
            try context.add(entry)
            return found.id
        }
    }
    private static let O_PATH_flag = Int32(bitPattern: OpenFlags.path)

    /// The REG entry of a file; a remap is saved with it when its path won't do. Position and owner are the caller's to add.
    static func dump(_ found: Found, _ context: DumpContext) throws -> RegFileEntry {
        guard let name = PathName(link: found.link, of: found.status) else {
            throw CheckpointError("dump", found.subject, "it has no path in the file system")
        }
        var entry = RegFileEntry()
        entry.id = found.id
        entry.flags = found.flags
        entry.pos = 0
        entry.fown = .none
        entry.name = name.path
        entry.mode = found.status.mode
        if let key = try ExternalFiles.key(of: found.descriptor, found.status, context) {
            entry.name = key
            entry.ext = true
            return entry
        }
        FileValidation.note(found.status, found.descriptor, mapped: found.mapped, in: &entry, context)
        if case .present = name { return entry }
        try Remaps.save(found, name, context)
        return entry
    }

    // MARK: Restore

    /// Opens the file of an entry.
    /// - Parameter flags: how to open it, where no descriptor is restored: the open mode of a mapping (vma_entry.fdflags), 0 for
    ///   executables and directories. nil: as the entry says.
    package static func open(_ entry: RegFileEntry, flags: UInt32?, _ context: RestoreContext) throws -> FileDescriptor {
        try open(entry, flags: flags, context, ahead: nil)
    }

    /// - Parameter ahead: what stands at the entry's path, opened as it says; used when nothing else takes its place.
    static func open(_ entry: RegFileEntry, flags: UInt32?, _ context: RestoreContext, ahead: OpenedAhead.File?) throws -> FileDescriptor {
        try CheckpointError.about("restore", .file(entry.name)) {
            let flags = flags ?? entry.flags
            switch try place(of: entry, context) {
            case .given(let descriptor): return descriptor
            case .remapped(.ghost(let id)): return try GhostFiles.open(id, entry, flags, context)
            case .remapped(.linked(let id)): return try LinkRemap.open(id, entry, flags, context)
            case .remapped(.process(let number)):
                try DeadProcess.standIn(for: number, context)
                return try open(path: entry.name, entry, flags, context)
            case .path:
                guard let ahead else { return try open(path: entry.name, entry, flags, context) }
                try FileValidation.check(entry, entry.name, ahead.status, context)
                return ahead.descriptor
            }
        }
    }

    private enum Place { case given(FileDescriptor), remapped(Remaps.Target), path }
    private static func place(of entry: RegFileEntry, _ context: RestoreContext) throws -> Place {
        if entry.ext { return .given(try ExternalFiles.open(entry, context)) }
        if let inherited = try context.inherited(String(entry.name.drop { $0 == "/" })) { return .given(inherited) }
        guard entry.name.hasPrefix("/"), !entry.name.utf8.contains(0) else {
            throw CheckpointError("restore", .image("files.img"), "file id \(entry.id): its name '\(entry.name)' is no absolute path")
        }
        return try Remaps.load(context).byFile[entry.id].map { .remapped($0) } ?? .path
    }

    /// What `open` would refuse, without opening the file.
    package static func check(_ entry: RegFileEntry, flags: UInt32?, _ context: RestoreContext) throws {
        try context.verify("file \(entry.name)", "it is there, as it was") {
            try CheckpointError.about("restore", .file(entry.name)) {
                switch try place(of: entry, context) {
                case .given: return
                case .remapped(.ghost(let id)): try GhostFiles.check(id, entry, context)
                case .remapped(.linked(let id)): if !context.imagesAreForChecks { _ = try LinkRemap.temporaryName(id, entry, context) }
                case .remapped(.process(let number)): try DeadProcess.check(number)
                case .path:
                    // A file of a process that the restore makes.
                    if let process = PathName.process(entry.name), (try? Files.status("/proc/\(process)")) == nil { return }
                    _ = try status(path: entry.name, entry, context)
                    guard (flags ?? entry.flags) & UInt32(O_ACCMODE) != UInt32(O_RDONLY), entry.hasMode, entry.mode & S_IFMT == S_IFREG else { return }
                    do throws(SyscallError) { try Files.checkAccess(entry.name, writing: true) } catch { throw SyscallError("openat", .path(entry.name), error.errno.rawValue) }
                }
            }
        }
    }

    private static func status(path: String, _ entry: RegFileEntry, _ context: RestoreContext) throws -> FileStatus {
        let isLink = entry.hasMode && entry.mode & S_IFMT == S_IFLNK
        let status = try Files.status(path, followLinks: !isLink)
        try FileValidation.check(entry, path, status, context)
        return status
    }

    /// Opens an existing path, when what stands there is what the entry tells of. Looked at first: opening may block or act.
    static func open(path: String, _ entry: RegFileEntry, _ flags: UInt32, _ context: RestoreContext) throws -> FileDescriptor {
        try open(path, try status(path: path, entry, context).mode, flags)
    }

    /// Opens without waiting (fifos, devices; open(2), O_NONBLOCK), then gives the open file exactly these flags.
    static func open(_ path: String, _ mode: UInt32, _ flags: UInt32) throws(SyscallError) -> FileDescriptor {
        let again = OpenFlags.again(flags, mode: mode)
        let type = mode & S_IFMT
        let mayWait = (type == S_IFCHR || type == S_IFBLK || type == S_IFIFO) && flags & (OpenFlags.path | OpenFlags.nonBlocking) == 0
        let descriptor = try FileDescriptor.open(path, mayWait ? again | O_NONBLOCK : again)
        if mayWait { try descriptor.control(F_SETFL, Int(again)) }
        return descriptor
    }
}

extension FownEntry {
    /// Nobody gets a signal.
    package static var none: FownEntry {
        var entry = FownEntry()
        (entry.uid, entry.euid, entry.signum, entry.pidType, entry.pid) = (0, 0, 0, 0, 0)
        return entry
    }
}

/// Files that the user passes from outside: dumped as `--external file[MNT:INODE]` (both hexadecimal), restored from the
/// descriptor that `--inherit-fd fd[N]:file[MNT:INODE]` gives.
enum ExternalFiles {
    static func key(of descriptor: FileDescriptor, _ status: FileStatus, _ context: DumpContext) throws -> String? {
        guard context.settings.external.contains(where: { $0.hasPrefix("file[") }) else { return nil }
        guard let mount = try Proc.descriptorInfo(descriptor.number, of: .current).decimal("mnt_id") else { return nil }
        let key = "file[\(String(mount, radix: 16)):\(String(status.inode, radix: 16))]"
        return context.settings.external.contains { $0 == key || $0.hasPrefix(key + ":") } ? key : nil
    }

    static func open(_ entry: RegFileEntry, _ context: RestoreContext) throws -> FileDescriptor {
        if let inherited = try context.inherited(entry.name) { return inherited }
        throw CheckpointError(
            "restore", .file(entry.name), "it was dumped as an external file, and no descriptor was given for it",
            remedy: "open it before the restore and give its number N with --inherit-fd 'fd[N]:\(entry.name)'")
    }
}
