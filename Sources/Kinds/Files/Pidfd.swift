import CLinux
import Glibc
import Graft
package import ImageMessages
import Linux

/// pidfd_open(2): a process of the tree, or one that is gone. Format README, 11.10.
package enum Pidfd: OpenFileKind {
    package static var type: FdTypes { .pidfd }
    private static let thread: UInt32 = 0o200  // PIDFD_THREAD is O_EXCL

    package static func claims(_ file: OpenFile) -> Bool { file.link == "anon_inode:[pidfd]" || file.link.hasPrefix("pidfd:[") }

    /// fdinfo says "Pid:", as our pid namespace has it: -1 when the process has been reaped, 0 when it is not below our namespace
    /// (kernel/fork.c, pidfd_show_fdinfo).
    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.pidfd, file.id)
        guard let text = try file.info()["Pid"], let pid = Int32(text) else { throw CheckpointError("dump", file.subject, "its fdinfo does not name a process") }
        if pid == 0 || pid > 0 && !context.members.contains(ThreadID(pid)) {
            throw CheckpointError(
                "dump", file.subject, pid == 0 ? "its process is in another pid namespace" : "its process \(pid) is outside the tree",
                remedy: "dump from a common parent of both")
        }
        (entry.pidfd.id, entry.pidfd.ino, entry.pidfd.nspid) = (file.id, UInt32(truncatingIfNeeded: file.status.inode), pid)
        entry.pidfd.flags = file.flags & ~StatusFlags.readWrite
        entry.pidfd.fown = try file.owner()
        return entry
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        var dead: [UInt32: [PidfdEntry]] = [:]
        for entry in entries {
            guard entry.hasPidfd else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) has no pidfd entry") }
            if entry.pidfd.nspid == -1 { dead[entry.pidfd.ino, default: []].append(entry.pidfd) }
            else { try open(entry.pidfd, ThreadID(entry.pidfd.nspid), context) }
        }
        for group in dead.keys.sorted() { try withDyingProcess { process in for entry in dead[group] ?? [] { try open(entry, process, context) } } }
    }

    private static func open(_ entry: PidfdEntry, _ process: ThreadID, _ context: RestoreContext) throws {
        try CheckpointError.about("restore", .object("pidfd of process \(process), file id \(entry.id)")) {
            let flags = entry.flags & (thread | StatusFlags.nonblocking)
            let made = FileDescriptor(owning: Int32(try Syscall.call("pidfd_open", SYS_pidfd_open, Int(process.rawValue), Int(flags), on: .task(process))))
            try made.setStatusFlags(entry.flags)
            try FileOwner.restore(entry.fown, on: made)
            context.made(entry.id, made)
        }
    }

    /// Lends a process that ends when `body` does, so that pidfds of it are pidfds of the dead.
    private static func withDyingProcess(_ body: (ThreadID) throws -> Void) throws {
        let program = try FileDescriptor.memory("stasis-pidfd", executable: true)
        try program.write(Stub.image(at: 1 << 22))  // it only waits
        let pid = clinux_spawn(program.number, 0, 0, 0, -1)
        guard pid > 0 else { throw CheckpointError("restore", .object("pidfds of processes that are gone"), "\(SyscallError("clone3", nil, -pid))") }
        defer {
            _ = kill(pid, SIGKILL)
            _ = try? Syscall.call("wait4", SYS_wait4, Int(pid), 0, 0)
        }
        try body(ThreadID(pid))
    }
}
