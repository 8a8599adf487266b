import CLinux
import Glibc
import Graft
import ImageMessages
import Images
import Linux

/// Takes the locks again, each by the process that held it and through the same descriptor number: the kernel notes both.
package struct FileLockRestore {
    private let byProcess: [Int32: [FileLockEntry]]
    package var processes: [Int32] { byProcess.keys.sorted() }

    package init(_ context: RestoreContext) throws {
        guard context.images.exists("filelocks.img") else { byProcess = [:]; return }
        var reader = try context.images.reader("filelocks.img")
        let entries = try reader.all(FileLockEntry.self)
        if !entries.isEmpty && !context.settings.fileLocks {
            throw CheckpointError("restore", .image("filelocks.img"), "the programs held \(entries.count) file locks", remedy: "restore with --file-locks", option: "--file-locks")
        }
        byProcess = Dictionary(grouping: entries, by: \.pid)
    }

    /// Leases come when every process has its other locks: opening a file breaks them, so nothing is opened afterwards.
    /// - Parameter files: the file id behind each descriptor number of this process.
    package func restore(leases: Bool, in task: any RestoredTask, files: [Int32: UInt32], _ context: RestoreContext) throws {
        for entry in byProcess[task.pid.rawValue] ?? [] {
            guard let lock = FileLock(entry) else {
                throw CheckpointError("restore", .image("filelocks.img"), "a lock with flag \(entry.flag), type \(entry.type) is not known here")
            }
            if (lock.kind == .lease) != leases { continue }
            guard let file = files[entry.fd] else {
                throw CheckpointError("restore", .image("filelocks.img"), "task \(entry.pid) has no descriptor \(entry.fd) for \(lock.words)")
            }
            let subject = CheckpointError.Subject.descriptor(entry.fd, path: path(of: file, context), of: task.pid)
            try CheckpointError.about("restore", subject) {
                if lock.kind == .lease { try lease(lock, entry.fd, file, in: task, subject, context) } else { try take(lock, entry.fd, in: task, subject) }
            }
        }
    }

    private func path(of file: UInt32, _ context: RestoreContext) -> String {
        context.files[file].flatMap { $0.hasReg ? $0.reg.name : nil } ?? "file id \(file)"
    }

    private func take(_ lock: FileLock, _ number: Int32, in task: any RestoredTask, _ subject: CheckpointError.Subject) throws {
        var batch = task.grafted.batch()
        let call: Batch.Call
        if lock.kind == .flock {
            call = batch.call("flock", SYS_flock, .init(number), .init((lock.access == .write ? LOCK_EX : LOCK_SH) | LOCK_NB), mayFail: true)
        } else {
            // struct flock (fcntl.h): short l_type, l_whence; off_t l_start, l_len; pid_t l_pid, 0 for F_OFD_SETLK.
            let range = batch.words([UInt64(lock.access == .write ? F_WRLCK : F_RDLCK), lock.start, lock.length, 0])
            let command: Int32 = lock.kind == .posix ? F_SETLK : 37  // F_OFD_SETLK
            call = batch.call("fcntl", SYS_fcntl, .init(number), .init(command), range.argument, mayFail: true)
        }
        try task.grafted.run(&batch)
        try check(batch.result(call), lock, subject)
    }

    private func check(_ result: Int, _ lock: FileLock, _ subject: CheckpointError.Subject) throws {
        if result >= 0 { return }
        let error = Errno(Int32(truncatingIfNeeded: -result))
        throw Self.failed(lock, subject, error)
    }
    private static func failed(_ lock: FileLock, _ subject: CheckpointError.Subject, _ error: Errno) -> CheckpointError {
        let taken = error.rawValue == EAGAIN || error.rawValue == EACCES
        return CheckpointError(
            "restore", subject, "\(lock.words) can't be taken again: " + (taken ? "another process holds the file" : "\(error)"),
            remedy: taken ? "end that process (lslocks, lsof)" : nil, errno: error)
    }

    /// What `take` would refuse, by the kernel's list of all locks (proc_locks(5)).
    /// - Parameter files: the file id behind each descriptor number of the process.
    package func check(_ process: Int32, files: [Int32: UInt32], _ context: RestoreContext) throws {
        let held = (try? Files.text("/proc/locks"))?.split(separator: "\n").map(String.init) ?? []
        for entry in byProcess[process] ?? [] {
            guard let lock = FileLock(entry), lock.kind != .lease, let file = files[entry.fd], let reg = context.files[file]?.reg else { continue }
            let subject = CheckpointError.Subject.descriptor(entry.fd, path: path(of: file, context), of: ThreadID(process))
            try context.verify("\(subject)", "\(lock.words) can be taken again") {
                guard let status = try? Files.status(reg.name) else { return }
                let device = FileStatus.kernelDevice(status.device)
                func hex(_ number: UInt32) -> String { (number < 16 ? "0" : "") + String(number, radix: 16) }
                let inode = "\(hex(device >> 20)):\(hex(device & 0xfffff)):\(status.inode)"
                let conflicts = held.contains { line in
                    line.split(separator: " ").contains(Substring(inode)) && FileLock(parsing: line).map(lock.conflicts(with:)) == true
                }
                if conflicts { throw Self.failed(lock, subject, Errno(EAGAIN)) }
            }
        }
    }

    /// F_SETLEASE makes the caller the file's owner for signals, and a break tells the owner: whoever it was before comes back last.
    private func lease(_ lock: FileLock, _ number: Int32, _ file: UInt32, in task: any RestoredTask, _ subject: CheckpointError.Subject, _ context: RestoreContext) throws {
        let descriptor = try context.requireDescriptor(of: file)
        let writes = Int32(truncatingIfNeeded: try descriptor.control(F_GETFL)) & O_ACCMODE != O_RDONLY
        // A lease on a file that is open for writing was a write lease: the kernel gives no other (fcntl(2)).
        let access = lock.breaking ? (writes ? F_WRLCK : F_RDLCK) : (lock.access == .write ? F_WRLCK : F_RDLCK)
        var batch = task.grafted.batch()
        let call = batch.call("fcntl(F_SETLEASE)", SYS_fcntl, .init(number), .init(1024), .init(access), mayFail: true)
        if lock.breaking { batch.call("fcntl(F_SETOWN)", SYS_fcntl, .init(number), .init(F_SETOWN), 0) }
        try task.grafted.run(&batch)
        try check(batch.result(call), lock, subject)
        if lock.breaking {
            // The holder knows already: nobody is told of this break. It has the time of /proc/sys/fs/lease-break-time again.
            do throws(SyscallError) {
                _ = try FileDescriptor.open(descriptor.procPath, (lock.access == .read ? O_RDONLY : O_WRONLY) | O_NONBLOCK)
                context.log.warn("\(subject): its lease did not break")
            } catch { if error.errno.rawValue != EWOULDBLOCK { throw error } }
        }
        if let entry = context.files[file], entry.hasReg {
            if entry.reg.fown.pid == 0 { try descriptor.control(F_SETOWN, 0) } else { try FileOwner.restore(entry.reg.fown, on: descriptor) }
        }
    }
}
