import CLinux
import Glibc
package import ImageMessages
import Linux

/// Both ends of pipes, pipe(2). Format README, 11.5; packets, and the size of a pipe whose reader is elsewhere, are our own fields.
package enum Pipe: OpenFileKind {
    package static var type: FdTypes { .pipe }

    package static func claims(_ file: OpenFile) -> Bool { file.status.type == S_IFIFO && file.link.hasPrefix("pipe:[") }

    /// Pipes whose content is saved.
    private final class Saved: DumpState { var pipes: Set<UInt64> = [] }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.pipe, file.id)
        entry.pipe.id = file.id
        entry.pipe.pipeID = UInt32(truncatingIfNeeded: file.status.inode)
        entry.pipe.flags = file.flags
        entry.pipe.fown = try file.owner()
        (entry.pipe.uid, entry.pipe.gid, entry.pipe.mode) = (file.status.uid, file.status.gid, file.status.mode & 0o7777)
        if file.flags & StatusFlags.accessMode == StatusFlags.writeOnly {
            entry.pipe.size = UInt32(truncatingIfNeeded: try file.descriptor.control(PipeContent.getSize))
        } else if context.readsContent, context.state(of: Saved.self).pipes.insert(file.status.inode).inserted {
            let content = try CheckpointError.about("dump", file.subject, remedy: "if it is larger than ours may be, raise /proc/sys/fs/pipe-max-size") {
                try PipeContent(peeking: file.descriptor, direct: file.flags & StatusFlags.direct != 0)
            }
            try context.images.append("pipes-data.img", content.entry(of: entry.pipe.pipeID), payload: content.bytes)
        }
        return entry
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        var pipes: [UInt32: [PipeEntry]] = [:]
        var order = [UInt32]()
        for entry in entries {
            guard entry.hasPipe else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) is a pipe without an entry of one") }
            if pipes[entry.pipe.pipeID] == nil { order.append(entry.pipe.pipeID) }
            pipes[entry.pipe.pipeID, default: []].append(entry.pipe)
        }
        let contents = order.isEmpty ? [:] : try PipeContent.read("pipes-data.img", context)
        for id in order {
            try CheckpointError.about("restore", .object("pipe:[\(id)]"), remedy: "if it is larger than pipes may be here, raise /proc/sys/fs/pipe-max-size") {
                if let given = try context.inherited("pipe:[\(id)]") { try take(given, for: pipes[id] ?? [], context) }
                else { try make(pipes[id] ?? [], contents[id], context) }
            }
        }
    }

    private static func make(_ entries: [PipeEntry], _ content: PipeContent?, _ context: RestoreContext) throws {
        let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        if let content { try content.write(into: writing) }
        else if let size = entries.first(where: { $0.hasSize && $0.size > 0 })?.size {
            try PipeContent(bytes: [], capacity: Int(size)).resize(writing)
        }
        // Its user may open it again by its magic link (/dev/stdout), and needs the rights it had.
        if let first = entries.first(where: { $0.hasUid && $0.hasGid }) {
            do throws(SyscallError) { try Syscall.call("fchown", SYS_fchown, Int(reading.number), Int(first.uid), Int(first.gid), on: .fd(reading.number)) } catch {
                guard context.settings.unprivileged, error.errno == Errno(EPERM) else { throw error }
                context.log.warn("pipe:[\(first.pipeID)]: it belonged to user \(first.uid); now to us")
            }
            if first.hasMode { try Syscall.call("fchmod", SYS_fchmod, Int(reading.number), Int(first.mode & 0o7777), on: .fd(reading.number)) }
        }
        var free: [UInt32: FileDescriptor] = [0: reading, StatusFlags.writeOnly: writing]
        for entry in entries {
            let mode = entry.flags & StatusFlags.accessMode
            let end: FileDescriptor
            // Opened again by its user, through /proc/PID/fd: another open file of the same end.
            if entry.flags & StatusFlags.largeFile == 0, let own = free.removeValue(forKey: mode) { end = own }
            else { end = try reading.reopened(mode | StatusFlags.nonblocking) }
            try finish(end, entry, context)
        }
    }

    /// The caller's descriptor takes the place of the pipe (--inherit-fd); it may be something else than a pipe. It blocks or not, as the program expects.
    private static func take(_ given: FileDescriptor, for entries: [PipeEntry], _ context: RestoreContext) throws {
        let mode = UInt32(truncatingIfNeeded: try given.control(F_GETFL)) & StatusFlags.accessMode
        for entry in entries {
            let wanted = entry.flags & StatusFlags.accessMode
            if wanted == mode || mode == StatusFlags.readWrite {
                let flags = UInt32(truncatingIfNeeded: try given.control(F_GETFL))
                try given.setStatusFlags(flags & ~StatusFlags.nonblocking | entry.flags & StatusFlags.nonblocking)
                context.made(entry.id, try given.duplicate())
            } else { try finish(try given.reopened(wanted | StatusFlags.nonblocking), entry, context) }
        }
    }

    private static func finish(_ end: FileDescriptor, _ entry: PipeEntry, _ context: RestoreContext) throws {
        try end.setStatusFlags(entry.flags)
        try FileOwner.restore(entry.fown, on: end)
        context.made(entry.id, end)
    }
}
