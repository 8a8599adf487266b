import CLinux
import Glibc
package import ImageMessages
import Linux

/// fanotify(7): the group with its marks on files, directories and mounts. Events that nobody has read yet are lost, as with CRIU
/// (format README 11.9).
package enum Fanotify: OpenFileKind {
    package static var type: FdTypes { .fanotify }

    package static func claims(_ file: OpenFile) -> Bool { file.link == "anon_inode:[fanotify]" }

    private static let permissionEvents: UInt32 = 0x7_0000
    /// Flags of fanotify_mark(2).
    private enum MarkFlag { static let add: UInt32 = 1, mount: UInt32 = 0x10, ignoredMask: UInt32 = 0x20, survivesModify: UInt32 = 0x40, evictable: UInt32 = 0x200, ignore: UInt32 = 0x400 }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        try CheckpointError.about("dump", file.subject) {
            var entry = FileEntry()
            (entry.type, entry.id) = (.fanotify, file.id)
            (entry.ffy.id, entry.ffy.flags, entry.ffy.fown) = (file.id, file.flags, try file.owner())
            for line in try file.info().lines where line.key.hasPrefix("fanotify ") {
                let words = FileHandles.words("\(line.key.dropFirst("fanotify ".count)):\(line.value)")
                func number(_ key: Substring) throws -> UInt32 {
                    guard let value = words[key].flatMap({ UInt32($0, radix: 16) }) else { throw unknown(line.value, file) }
                    return value
                }
                if words["event-flags"] != nil {
                    (entry.ffy.faflags, entry.ffy.evflags) = (try number("flags"), try number("event-flags"))
                    continue
                }
                var mark = FanotifyMarkEntry()
                (mark.id, mark.mflags, mark.mask, mark.ignoredMask) = (0, try number("mflags"), try number("mask"), try number("ignored_mask"))
                guard mark.mask & permissionEvents == 0 else {
                    throw CheckpointError("dump", file.subject, "it decides on others' opening and reading of files: while it stands still, they all would", remedy: "stop that program before the dump")
                }
                if words["ino"] != nil {
                    guard let inode = words["ino"].flatMap({ UInt64($0, radix: 16) }), let handle = try InodePaths.entry(words, device: try number("sdev"), inode: inode, context) else {
                        throw CheckpointError("dump", file.subject, "it marks an inode (\(words["ino"] ?? "?")) whose path can't be found",
                            remedy: "name a directory that it is in with --irmap-scan-path, or remove the mark before the dump")
                    }
                    (mark.type, mark.sDev, mark.ie.iIno, mark.ie.fHandle) = (.inode, try number("sdev"), inode, handle)
                } else if words["mnt_id"] != nil {
                    guard let mount = FileHandles.mount(id: try number("mnt_id")) else { throw CheckpointError("dump", file.subject, "it marks a mount (id \(try number("mnt_id"))) that is not there") }
                    (mark.type, mark.sDev, mark.me.mntID, mark.me.path) = (.mount, mount.device, try number("mnt_id"), mount.path)
                } else {
                    throw CheckpointError("dump", file.subject, "it marks a whole file system, which images can't hold", remedy: "remove the mark before the dump")
                }
                entry.ffy.mark.append(mark)
            }
            guard entry.ffy.hasFaflags else { throw unknown("", file) }
            return entry
        }
    }
    private static func unknown(_ line: String, _ file: OpenFile) -> CheckpointError {
        CheckpointError("dump", file.subject, "the kernel tells of it in words not known here: '\(line)'")
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            guard entry.hasFfy else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) is a fanotify without an entry of one") }
            let made = try CheckpointError.about("restore", .object("fanotify \(entry.id)")) {
                // Exactly these flags, for fdinfo shows them: close-on-exec is ours and comes afterwards.
                let made = FileDescriptor(owning: Int32(try Syscall.call("fanotify_init", SYS_fanotify_init, Int(entry.ffy.faflags), Int(entry.ffy.evflags))))
                try made.control(F_SETFD, Int(FD_CLOEXEC))
                try FileOwner.restore(entry.ffy.fown, on: made)
                return made
            }
            context.made(entry.id, made)
        }
    }

    /// When all other files are open, for opening them is an event. The kernel shows the youngest mark first.
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            let group = try context.requireDescriptor(of: entry.id)
            for mark in entry.ffy.mark.reversed() { try add(mark, to: group, context) }
            try CheckpointError.about("restore", .object("fanotify \(entry.id)")) { try group.setStatusFlags(entry.ffy.flags) }
        }
    }

    private static func add(_ mark: FanotifyMarkEntry, to group: FileDescriptor, _ context: RestoreContext) throws {
        let subject = CheckpointError.Subject.object("fanotify mark on \(mark.hasMe ? "mount \(mark.me.path)" : mark.ie.fHandle.path)")
        guard mark.mask & permissionEvents == 0 else { throw CheckpointError("restore", subject, "it decides on others' opening of files") }
        let path: String
        var anchor: FileDescriptor?
        if mark.type == .mount, mark.hasMe, mark.me.hasPath {
            path = mark.me.path
        } else if mark.type == .inode, mark.hasIe {
            anchor = try GhostFiles.anchor(device: mark.sDev, inode: mark.ie.iIno, context)
            guard let found = anchor?.procPath ?? (mark.ie.fHandle.hasPath ? mark.ie.fHandle.path : FileHandles.path(of: mark.ie.fHandle, device: mark.sDev, inode: mark.ie.iIno)) else {
                throw CheckpointError("restore", subject, "its path is not in the image and can't be found")
            }
            path = found
        } else { throw CheckpointError("restore", .image("files.img"), "a fanotify mark says neither inode nor mount") }
        let common = MarkFlag.add | (mark.type == .mount ? MarkFlag.mount : 0) | mark.mflags & MarkFlag.evictable
        try CheckpointError.about("restore", subject) {
            func call(_ flags: UInt32, _ mask: UInt32) throws {
                try Syscall.call("fanotify_mark", SYS_fanotify_mark, path: path, at: 4, Int(group.number), Int(flags), Int(mask), Int(AT_FDCWD))
            }
            if mark.mask != 0 { try call(common, mark.mask) }
            if mark.ignoredMask != 0 {
                let kind = mark.mflags & MarkFlag.ignore != 0 ? MarkFlag.ignore : MarkFlag.ignoredMask
                try call(common | kind | mark.mflags & MarkFlag.survivesModify, mark.ignoredMask)
            }
        }
        withExtendedLifetime(anchor) {}
    }
}
