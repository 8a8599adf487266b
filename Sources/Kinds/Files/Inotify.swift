import CLinux
import Glibc
package import ImageMessages
import Linux

/// inotify(7): the watches with their numbers. Events that nobody has read yet are lost, as with CRIU (format README 11.9).
package enum Inotify: OpenFileKind {
    package static var type: FdTypes { .inotify }

    package static func claims(_ file: OpenFile) -> Bool { file.link == "anon_inode:inotify" }

    /// What a program may ask for: events, IN_EXCL_UNLINK and IN_ONESHOT; IN_ONLYDIR, IN_DONT_FOLLOW act on adding only.
    private static let userMask: UInt32 = 0xfff | 0x400_0000 | 0x8000_0000

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        try CheckpointError.about("dump", file.subject) {
            var entry = FileEntry()
            (entry.type, entry.id) = (.inotify, file.id)
            (entry.ify.id, entry.ify.flags, entry.ify.fown) = (file.id, file.flags, try file.owner())
            entry.ify.wd = try file.info().all("inotify wd").map { try watch($0, file, context) }
            var waiting: Int32 = 0
            try file.descriptor.ioctl("FIONREAD", 0x541b, &waiting)
            if waiting > 0 { context.log.warn("\(file.subject): \(waiting) bytes of events that were not read yet are not saved") }
            return entry
        }
    }

    /// "4 ino:1 sdev:1b mask:20 ignored_mask:0 fhandle-bytes:c fhandle-type:1 f_handle:7afbfa6a0100000000000000": what fdinfo says behind
    /// "inotify wd:", hexadecimal but for the number (fs/notify/fdinfo.c, inotify_fdinfo).
    private static func watch(_ line: String, _ file: OpenFile, _ context: DumpContext) throws -> InotifyWdEntry {
        let words = FileHandles.words("wd:\(line)")
        func number(_ key: Substring) -> UInt64? { words[key].flatMap { UInt64($0, radix: 16) } }
        guard let wd = number("wd"), let inode = number("ino"), let device = number("sdev"), let mask = number("mask") else {
            throw CheckpointError("dump", file.subject, "the kernel tells of a watch in words not known here: '\(line)'")
        }
        guard let handle = try InodePaths.entry(words, device: UInt32(truncatingIfNeeded: device), inode: inode, context) else {
            throw CheckpointError(
                "dump", file.subject, "watch \(wd) is on inode \(inode), whose path can't be found",
                remedy: "name a directory that it is in with --irmap-scan-path, or remove the watch before the dump")
        }
        var entry = InotifyWdEntry()
        (entry.id, entry.iIno, entry.mask, entry.ignoredMask) = (0, inode, UInt32(truncatingIfNeeded: mask), UInt32(truncatingIfNeeded: number("ignored_mask") ?? 0))
        (entry.sDev, entry.wd, entry.fHandle) = (UInt32(truncatingIfNeeded: device), UInt32(truncatingIfNeeded: wd), handle)
        return entry
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            guard entry.hasIfy else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) is an inotify without an entry of one") }
            let made = try CheckpointError.about("restore", .object("inotify \(entry.id)")) {
                let made = FileDescriptor(owning: Int32(try Syscall.call(
                    "inotify_init1", SYS_inotify_init1, Int(entry.ify.flags & StatusFlags.nonblocking) | Int(O_CLOEXEC))))
                try FileOwner.restore(entry.ify.fown, on: made)
                return made
            }
            context.made(entry.id, made)
        }
    }

    /// When all other files are open, for opening them is an event.
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            let inotify = try context.requireDescriptor(of: entry.id)
            for watch in entry.ify.wd.sorted(by: { $0.wd < $1.wd }) { try add(watch, to: inotify, context) }
            try CheckpointError.about("restore", .object("inotify \(entry.id)")) {
                try inotify.setStatusFlags(StatusFlags.nonblocking)
                // What making the watches has told.
                while try !inotify.read(65536, orNothing: true).isEmpty {}
                try inotify.setStatusFlags(entry.ify.flags)
            }
        }
    }

    /// Watch numbers only grow (idr_alloc_cyclic): one that is too small is taken away again, until the number is reached.
    private static func add(_ watch: InotifyWdEntry, to inotify: FileDescriptor, _ context: RestoreContext) throws {
        let subject = CheckpointError.Subject.object("inotify watch \(watch.wd) on \(watch.fHandle.hasPath ? watch.fHandle.path : "inode \(watch.iIno)")")
        guard watch.wd > 0, watch.wd < 1 << 24 else { throw CheckpointError("restore", subject, "its number is out of range") }
        try CheckpointError.about("restore", subject) {
            let ghost = try GhostFiles.anchor(device: watch.sDev, inode: watch.iIno, context)
            guard let path = ghost?.procPath ?? (watch.fHandle.hasPath ? watch.fHandle.path : FileHandles.path(of: watch.fHandle, device: watch.sDev, inode: watch.iIno)) else {
                throw CheckpointError("restore", subject, "its path is not in the image and can't be found")
            }
            while true {
                let number = try Syscall.call("inotify_add_watch", SYS_inotify_add_watch, path: path, at: 1, Int(inotify.number), Int(watch.mask & userMask))
                if number == Int(watch.wd) { return }
                guard number < Int(watch.wd) else { throw CheckpointError("restore", subject, "the kernel gave it number \(number)") }
                try Syscall.call("inotify_rm_watch", SYS_inotify_rm_watch, Int(inotify.number), number, on: .fd(inotify.number))
                // Each tells of its end: the queue has room for 16384 only, and then says that it was full.
                if number % 8192 == 0 {
                    try inotify.setStatusFlags(StatusFlags.nonblocking)
                    while try !inotify.read(65536, orNothing: true).isEmpty {}
                }
            }
        }
    }
}

extension GhostFiles {
    /// A ghost by the numbers it had when it was saved.
    static func anchor(device: UInt32, inode: UInt64, _ context: RestoreContext) throws -> FileDescriptor? {
        for case .ghost(let id) in try Remaps.load(context).byFile.values {
            let ghost = try ghost(id, context)
            if ghost.device == device && ghost.inode == inode { return ghost.anchors.values.first }
        }
        return nil
    }
}
