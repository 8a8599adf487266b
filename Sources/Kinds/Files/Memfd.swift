import Glibc
package import ImageMessages
import Linux

/// memfd_create(2): open files of memory; and the memory of shared anonymous mappings, which the kernel keeps the same way.
/// Format README, 11.6. The content is in SharedMemory.swift.
package enum Memfd: OpenFileKind {
    package static var type: FdTypes { .memfd }
    static let addSeals: Int32 = 1033, getSeals: Int32 = 1034
    /// The inode's name in memfd.img that means a shared anonymous mapping.
    static let anonymousName = "/dev/zero"

    /// A deleted file of a tmpfs could have such a name, too, but not the lack of a link that it never had.
    package static func claims(_ file: OpenFile) -> Bool {
        file.status.type == S_IFREG && file.status.links == 0 && name(ofLink: file.link) != nil && (try? file.descriptor.control(getSeals)) != nil
    }

    /// The kernel's names are "memfd:NAME" (mm/memfd.c), "dev/zero" (mm/shmem.c, shmem_zero_setup) and "anon_hugepage" (mm/mmap.c).
    static func name(ofLink link: String) -> String? {
        guard link.hasSuffix(" (deleted)") else { return nil }
        let path = String(link.dropLast(10))
        if path.hasPrefix("/memfd:") { return String(path.dropFirst(7)) }
        if path == anonymousName || path == "/anon_hugepage" { return anonymousName }
        return nil
    }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.memfd, file.id)
        (entry.memfd.id, entry.memfd.flags, entry.memfd.pos) = (file.id, file.flags, try file.position)
        entry.memfd.fown = try file.owner()
        entry.memfd.inodeID = try SharedMemory.inodeID(of: file.descriptor, file.status, link: file.link, context)
        return entry
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            try CheckpointError.about("restore", .object("memfd, file id \(entry.id)")) {
                guard entry.hasMemfd else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) has no memfd entry") }
                let inode = try SharedMemory.inode(entry.memfd.inodeID, context)
                if let inherited = try context.inherited("/memfd:\(inode.entry.name)") { return context.made(entry.id, inherited) }
                // An entry of a mapping has no descriptor: it is opened as the mapping wants it (openForMapping).
                let made = try inode.open(entry.memfd.flags)
                guard let position = Int(exactly: entry.memfd.pos) else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id): position \(entry.memfd.pos)") }
                try made.seek(position)
                try made.setStatusFlags(entry.memfd.flags)
                try FileOwner.restore(entry.memfd.fown, on: made)
                context.made(entry.id, made)
            }
        }
    }

    /// Every process has its memory by now.
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {
        try SharedMemory.finishRestore(context)
        try SysVSharedMemory.finishRestore(context)
    }
}
