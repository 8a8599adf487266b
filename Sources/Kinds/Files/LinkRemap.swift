import CLinux
import Glibc
import ImageMessages
import Linux

/// A file that lost the name it was opened by but has others: a dump with --link-remap gives it one more,
/// `link_remap.<id>` in the same directory, that lasts until the restore (format README 11.4, LINKED).
enum LinkRemap {
    final class Made: DumpState {
        var ids: [InodeKey: UInt32] = [:]
        init() {}
    }

    // MARK: Dump

    /// The id of the REG entry that carries the temporary name. nil: the file has no name at all, whatever its count of links says.
    static func save(_ found: PathFiles.Found, _ path: String, _ context: DumpContext) throws -> UInt32? {
        let made = context.state(of: Made.self)
        if let id = made.ids[InodeKey(found.status)] { return id }
        guard context.settings.linkRemap else {
            throw CheckpointError(
                "dump", found.subject, "its name \(path) was removed while it has others. Can't create link remap for \(path). Use link-remap option",
                remedy: "let it have a temporary name beside the old one: --link-remap", option: "--link-remap")
        }
        let id = context.newFileID()
        if context.purpose == .explain { return id }
        guard let name = try link(found, path, id) else { return nil }
        context.undo.append { try? Files.unlink(name) }
        var reg = RegFileEntry()
        (reg.id, reg.flags, reg.pos, reg.fown, reg.name) = (id, 0, 0, .none, name)
        var entry = FileEntry()
        (entry.type, entry.id, entry.reg) = (.reg, id, reg)
        try context.add(entry)
        made.ids[InodeKey(found.status)] = id
        return id
    }

    /// The new name: in the old directory or, where that is gone, in the nearest one above it.
    private static func link(_ found: PathFiles.Found, _ path: String, _ id: UInt32) throws -> String? {
        var directory = PathName.split(path).directory
        while true {
            let base = (directory == "/" ? "" : directory) + "/link_remap.\(id)"
            // Left from another dump in this directory: the restorer takes the name from the image, so any will do.
            for name in [base] + (1..<100).map({ "\(base).\($0)" }) {
                do throws(SyscallError) {
                    try Files.makeLink(name, to: found.descriptor)
                    return name
                } catch {
                    if error.errno.rawValue == EEXIST { continue }
                    if error.errno.rawValue == ENOENT || error.errno.rawValue == ENOTDIR {
                        if (try? Files.status(directory)) != nil { return nil }  // the file itself has no name
                        break
                    }
                    throw CheckpointError("dump", found.subject, "Can't create link remap for \(path): \(error)", errno: error.errno)
                }
            }
            if directory == "/" { return nil }
            directory = PathName.split(directory).directory
        }
    }

    // MARK: Restore

    static func open(_ id: UInt32, _ entry: RegFileEntry, _ flags: UInt32, _ context: RestoreContext) throws -> FileDescriptor {
        let (temporary, status) = try temporaryName(id, entry, context)
        forget(temporary, context)
        // Under its old name where that is free, so that /proc/PID/fd tells the same as before.
        if (try? Files.makeLink(entry.name, to: temporary)) != nil {
            defer { try? Files.unlink(entry.name) }
            return try PathFiles.open(path: entry.name, entry, flags, context)
        }
        if let there = try? Files.status(entry.name, followLinks: false), InodeKey(there) == InodeKey(status) {
            return try PathFiles.open(path: entry.name, entry, flags, context)
        }
        return try PathFiles.open(path: temporary, entry, flags, context)
    }

    static func temporaryName(_ id: UInt32, _ entry: RegFileEntry, _ context: RestoreContext) throws -> (name: String, status: FileStatus) {
        guard let target = context.files[id], target.hasReg, target.reg.name.hasPrefix("/"), !target.reg.name.utf8.contains(0) else {
            throw CheckpointError("restore", .image("remap-fpath.img"), "file id \(entry.id) is remapped to id \(id), which is no REG entry of files.img")
        }
        let temporary = target.reg.name
        guard let status = try? Files.status(temporary, followLinks: false) else {
            throw CheckpointError(
                "restore", .file(entry.name), "its temporary name \(temporary) is gone",
                remedy: "a dump that left its tasks running takes these names away again: such images can't be restored with this file open", errno: Errno(ENOENT))
        }
        return (temporary, status)
    }

    /// Removes the temporary name after a restore that succeeded; another attempt would need it.
    private static func forget(_ name: String, _ context: RestoreContext) {
        let forgotten = context.state(of: Forgotten.self)
        if forgotten.names.isEmpty {
            context.undo.append { forgotten.names = [] }
            context.cleanup.append { for name in forgotten.names { try? Files.unlink(name) } }
        }
        forgotten.names.insert(name)
    }
    private final class Forgotten: DumpState {
        var names: Set<String> = []
        init() {}
    }
}
