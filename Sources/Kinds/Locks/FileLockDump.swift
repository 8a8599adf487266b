import ImageMessages
package import Linux
import Glibc

/// Finds the locks of a stopped tree. The kernel shows under /proc/PID/fdinfo/N those locks only that were taken through this open
/// file and belong to it or, POSIX ones, to this process's descriptor table (fs/locks.c, __show_fd_locks).
package final class FileLockDump: DumpState {
    private var seen: Set<Owned> = []
    private struct Owned: Hashable { let file: UInt32, process: ThreadID?, lock: FileLock }

    package init() {}

    /// Anonymous inodes and sockets are not asked: a thousand of them would cost milliseconds, and nobody locks them.
    package static func mayBeLocked(_ status: FileStatus) -> Bool { status.type != 0 && status.type != S_IFSOCK }

    /// Saves what descriptor `number` of `process` holds and no other one has shown yet.
    /// - Parameter lines: the values of "lock" in its fdinfo.
    package func collect(_ lines: [String], _ number: Int32, of process: ThreadID, file: UInt32, _ context: DumpContext) throws {
        for line in lines {
            func subject() -> CheckpointError.Subject {
                .descriptor(number, path: (try? Files.link("/proc/\(process)/fd/\(number)")) ?? "file id \(file)", of: process)
            }
            guard let lock = FileLock(parsing: line) else { throw CheckpointError("dump", subject(), "it holds a lock of a kind not known here: '\(line)'") }
            guard context.settings.fileLocks else {
                throw CheckpointError("dump", subject(), "it holds \(lock.words)", remedy: "dump with --file-locks, and restore with it", option: "--file-locks")
            }
            guard seen.insert(Owned(file: file, process: lock.kind == .posix ? process : nil, lock: lock)).inserted else { continue }
            try context.images.append("filelocks.img", lock.entry(process: process.rawValue, descriptor: number))
        }
    }
}
