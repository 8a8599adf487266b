import CLinux
import Glibc
package import ImageMessages
import Linux

/// signalfd(2): which signals it takes. The signals themselves are pending in the tasks. Format README, 11.7.
package enum Signalfd: OpenFileKind {
    package static var type: FdTypes { .signalfd }

    package static func claims(_ file: OpenFile) -> Bool { file.link == "anon_inode:[signalfd]" }

    /// fdinfo says "sigmask: <hexadecimal>", bit n-1 for signal n (fs/signalfd.c, signalfd_show_fdinfo).
    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.signalfd, file.id)
        guard let mask = try file.info().hexadecimal("sigmask") else { throw CheckpointError("dump", file.subject, "its fdinfo has no sigmask") }
        (entry.sgfd.id, entry.sgfd.flags, entry.sgfd.sigmask) = (file.id, file.flags, mask)
        entry.sgfd.fown = try file.owner()
        return entry
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            try CheckpointError.about("restore", .object("signalfd, file id \(entry.id)")) {
                guard entry.hasSgfd else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) has no signalfd entry") }
                var mask = entry.sgfd.sigmask
                let made = FileDescriptor(owning: Int32(try Syscall.call("signalfd4", SYS_signalfd4, value: &mask, at: 1, -1, 8, Int(O_CLOEXEC))))
                try made.setStatusFlags(entry.sgfd.flags)
                try FileOwner.restore(entry.sgfd.fown, on: made)
                context.made(entry.id, made)
            }
        }
    }
}
