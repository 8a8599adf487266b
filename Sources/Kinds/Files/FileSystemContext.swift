import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// Working directory, root directory and umask of a process: fs-PID.img (format README 14.2).
package enum FileSystemContext {
    package static func dump(of process: ThreadID, status: KeyedLines, _ context: DumpContext) throws -> FsEntry {
        var entry = FsEntry()
        entry.cwdID = try PathFiles.workingDirectoryID(of: process, context: context)
        entry.rootID = try PathFiles.rootDirectoryID(of: process, context: context)
        if let umask = status.octal("Umask") { entry.umask = UInt32(truncatingIfNeeded: umask) }
        return entry
    }

    /// The directories as descriptors of ours, to be handed to the task. `root` is nil where the task keeps the root it has.
    package static func open(_ entry: FsEntry, _ context: RestoreContext) throws -> (working: FileDescriptor, root: FileDescriptor?) {
        let working = try directory(entry.cwdID, "working directory", context)
        let root = try directory(entry.rootID, "root directory", context)
        // As places only: opening a directory that is watched would be an event.
        let place = OpenFlags.path | OpenFlags.directory
        return (try PathFiles.open(working, flags: place, context), root.name == "/" ? nil : try PathFiles.open(root, flags: place, context))
    }

    package static func check(_ entry: FsEntry, _ context: RestoreContext) throws {
        for (id, what) in [(entry.cwdID, "working directory"), (entry.rootID, "root directory")] {
            try PathFiles.check(try directory(id, what, context), flags: OpenFlags.path | OpenFlags.directory, context)
        }
    }

    private static func directory(_ id: UInt32, _ what: String, _ context: RestoreContext) throws -> RegFileEntry {
        guard let file = context.files[id], file.hasReg else {
            throw CheckpointError("restore", .image("files.img"), "the \(what) has id \(id), which is no REG entry of files.img")
        }
        return file.reg
    }

    /// Adds the calls that give a task its directories and umask. `working` and `root` are numbers of descriptors in the task.
    /// chroot(2) takes a path only: "." after going there. The root comes first, for it would lose the working directory.
    package static func add(to batch: inout Batch, _ entry: FsEntry, working: Int32, root: Int32?) {
        if let root {
            batch.call("fchdir", SYS_fchdir, .init(root))
            let here = batch.string(".")
            batch.call("chroot", SYS_chroot, here)
        }
        batch.call("fchdir", SYS_fchdir, .init(working))
        if entry.hasUmask { batch.call("umask", SYS_umask, .init(entry.umask & 0o777)) }
    }
}
