import Glibc
package import ImageMessages
import Linux

/// Descriptors of files with a path: regular files, directories, devices, places (O_PATH), files of /proc. Asked last.
package enum RegularFile: OpenFileKind {
    package static let type = FdTypes.reg

    package static func claims(_ file: OpenFile) -> Bool {
        switch file.status.type {
        case S_IFREG, S_IFDIR, S_IFCHR, S_IFBLK, S_IFLNK: file.link.hasPrefix("/")
        default: file.flags & OpenFlags.path != 0 && file.link.hasPrefix("/")
        }
    }

    /// Why a file with a path can't be saved all the same.
    package static func refusal(_ file: OpenFile, _ context: DumpContext) throws -> CheckpointError? {
        guard let refusal = Unsupported.device(file, context.plugins), try ExternalFiles.key(of: file.descriptor, file.status, context) == nil else { return nil }
        return refusal
    }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var reg = try entry(of: file, id: file.id, context)
        if !reg.isPathOnly {
            // Some devices know no position (ESPIPE): told by the largest number.
            reg.pos = (try? file.position) ?? .max
            reg.fown = try CheckpointError.about("dump", file.subject) { try file.owner() }
        }
        var entry = FileEntry()
        (entry.type, entry.id, entry.reg) = (.reg, file.id, reg)
        return entry
    }

    /// The REG entry for the path of a file, for kinds that have one beside their own (fifos, terminals, tun).
    package static func entry(of file: OpenFile, id: UInt32, _ context: DumpContext) throws -> RegFileEntry {
        try CheckpointError.about("dump", file.subject) {
            try PathFiles.dump(
                PathFiles.Found(
                    id: id, descriptor: file.descriptor, status: file.status, flags: file.flags, link: file.link, subject: file.subject), context)
        }
    }

    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries { try PathFiles.check(entry.reg, flags: nil, context) }
    }

    /// Begins to open what `make` will be asked for, on another thread, before any process exists.
    package static func beginOpening(_ entries: [FileEntry], _ context: RestoreContext) { context.state(of: OpenedAhead.self).begin(entries) }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        let ahead = context.state(of: OpenedAhead.self)
        for (index, file) in entries.enumerated() {
            guard file.hasReg else { throw CheckpointError("restore", .image("files.img"), "entry \(file.id) of type REG holds no reg message") }
            let entry = file.reg
            let descriptor = try PathFiles.open(entry, flags: nil, context, ahead: ahead.take(index))
            try CheckpointError.about("restore", .file(entry.name)) { try place(entry, descriptor) }
            context.made(file.id, descriptor)
        }
        try ahead.finish()
    }

    private static func place(_ entry: RegFileEntry, _ descriptor: FileDescriptor) throws(SyscallError) {
        if entry.isPathOnly { return }
        if entry.pos != 0 && entry.pos != .max { try descriptor.seek(Int(truncatingIfNeeded: entry.pos)) }
        if entry.fown.pid != 0 || entry.fown.signum != 0 { try FileOwner.restore(entry.fown, on: descriptor) }
        // Last, for a signal must find its owner. Where a file can't do it the flag came from a lease, which brings it along.
        if entry.flags & OpenFlags.async != 0 {
            _ = try? descriptor.control(F_SETFL, Int(OpenFlags.again(entry.flags, mode: nil) | Int32(OpenFlags.async)))
        }
    }
}
