import Glibc
package import ImageMessages
import Linux

/// Pipes with a path, fifo(7). The path, flags and owner are in a REG entry of their own (`regf_id`), what stands in the pipe is in
/// fifo-data.img (format README 11.5).
package enum Fifo: OpenFileKind {
    package static var type: FdTypes { .fifo }

    package static func claims(_ file: OpenFile) -> Bool {
        file.status.type == S_IFIFO && file.link.hasPrefix("/") && file.flags & OpenFlags.path == 0
    }

    private final class Saved: DumpState {
        var pipes: Set<InodeKey> = []
        init() {}
    }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var path = FileEntry()
        (path.type, path.id) = (.reg, context.newFileID())
        path.reg = try RegularFile.entry(of: file, id: path.id, context)
        path.reg.fown = try CheckpointError.about("dump", file.subject) { try file.owner() }
        try context.add(path)
        var entry = FileEntry()
        (entry.type, entry.id) = (.fifo, file.id)
        (entry.fifo.id, entry.fifo.pipeID, entry.fifo.regfID) = (file.id, UInt32(truncatingIfNeeded: file.status.inode), path.id)
        try CheckpointError.about("dump", file.subject, remedy: "if it is larger than ours may be, raise /proc/sys/fs/pipe-max-size") {
            if file.flags & StatusFlags.accessMode == StatusFlags.writeOnly {
                entry.fifo.size = UInt32(truncatingIfNeeded: try file.descriptor.control(PipeContent.getSize))
            } else if context.readsContent, context.state(of: Saved.self).pipes.insert(InodeKey(file.status)).inserted {
                let content = try PipeContent(peeking: file.descriptor, direct: file.flags & StatusFlags.direct != 0)
                try context.images.append("fifo-data.img", content.entry(of: entry.fifo.pipeID), payload: content.bytes)
            }
        }
        return entry
    }

    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            if let path = context.files[entry.fifo.hasRegfID ? entry.fifo.regfID : entry.fifo.id], path.hasReg { try PathFiles.check(path.reg, flags: nil, context) }
        }
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        if entries.isEmpty { return }
        let contents = try PipeContent.read("fifo-data.img", context)
        var ends: [UInt32: [End]] = [:]
        for entry in entries {
            guard entry.hasFifo else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) is a fifo without an entry of one") }
            let pathID = entry.fifo.hasRegfID ? entry.fifo.regfID : entry.fifo.id
            guard let path = context.files[pathID], path.hasReg else {
                throw CheckpointError("restore", .image("files.img"), "fifo \(entry.id): its path, id \(pathID), is no REG entry")
            }
            ends[entry.fifo.pipeID, default: []].append(End(fifo: entry.fifo, path: path.reg))
        }
        for (id, ends) in ends.sorted(by: { $0.key < $1.key }) {
            try CheckpointError.about("restore", .file(ends[0].path.name)) { try make(ends, contents[id], context) }
        }
    }

    private struct End {
        let fifo: FifoEntry, path: RegFileEntry
        var mode: UInt32 { path.flags & StatusFlags.accessMode }
    }

    /// Opening one end waits for the other (fifo(7)), unless somebody holds both: we do, for that long.
    private static func make(_ ends: [End], _ content: PipeContent?, _ context: RestoreContext) throws {
        var both: FileDescriptor?
        // A reader that never met a writer sees no end of file in poll(2); one more that comes and goes would show it one.
        let isLonely = ends.allSatisfy { $0.mode == 0 && $0.path.flags & StatusFlags.nonblocking != 0 } && content?.bytes.isEmpty ?? true
        if !isLonely, try context.inherited(String(ends[0].path.name.drop { $0 == "/" })) == nil {
            let opened = try PathFiles.open(ends[0].path, flags: StatusFlags.readWrite | StatusFlags.nonblocking, context)
            var waiting: Int32 = 0
            try opened.ioctl("FIONREAD", 0x541b, &waiting)
            if waiting > 0 {
                context.log.warn("fifo \(ends[0].path.name): somebody has it open, with \(waiting) bytes in it: its own content is kept")
            } else if let content {
                try content.write(into: opened)
            } else if let size = ends.first(where: { $0.fifo.hasSize && $0.fifo.size > 0 })?.fifo.size {
                try PipeContent(bytes: [], capacity: Int(size)).resize(opened)
            }
            both = opened
        }
        for end in ends {
            let made = try PathFiles.open(end.path, flags: nil, context)
            try FileOwner.restore(end.path.fown, on: made)
            try made.setStatusFlags(end.path.flags)
            context.made(end.fifo.id, made)
        }
        withExtendedLifetime(both) {}
    }
}
