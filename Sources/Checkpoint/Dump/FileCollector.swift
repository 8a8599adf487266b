import CLinux
import Glibc
import Graft
import ImageMessages
import Kinds
import Linux

/// Finds every open file description of the tree, gives each one id however many descriptors share it, and saves it once.
final class FileCollector {
    private let context: DumpContext
    private let pidfds: [ThreadID: FileDescriptor]
    /// Open files met so far, in buckets of equal device, inode and flags, for eventfds (which have one inode) of equal id; within a
    /// bucket in the order of kcmp(2).
    private var known: [Bucket: [Met]] = [:]
    /// - Parameter name: an eventfd's id; for `explain` the link.
    private struct Bucket: Hashable {
        let device: UInt64, inode: UInt64, mode: UInt32, flags: UInt32, name: String?
        init(_ probe: FileProbe, name: String?) {
            (device, inode, mode) = (probe.status.device, probe.status.inode, probe.status.mode)
            (flags, self.name) = (probe.flags, name)
        }
    }
    private struct Met { let process: ThreadID, number: Int32, id: UInt32, type: FdTypes }
    /// Descriptors that came out of queues: kept, so that kcmp can compare with them.
    private var kept: [FileDescriptor] = []

    init(_ context: DumpContext, processes: [ThreadID]) throws {
        self.context = context
        var pidfds = [ThreadID: FileDescriptor]()
        for id in processes {
            do throws(SyscallError) { pidfds[id] = try FileDescriptor.process(id) } catch {
                guard error.errno == Errno(EINVAL) else { throw CheckpointError("dump", .task(id), "\(error)", errno: error.errno) }
                throw CheckpointError(
                    "dump", .task(id), "the first thread of its process has ended, and this kernel gives out files by the first thread only", remedy: "dump under Linux 6.9 or newer", errno: error.errno)
            }
        }
        self.pidfds = pidfds
    }

    /// Saves what the descriptors of one table refer to. While some are saved, the kernel is asked about the next.
    /// - Parameter closeOnExec: which numbers have FD_CLOEXEC.
    func collect(_ numbers: [Int32], of process: ThreadID, closeOnExec: Set<Int32>) throws -> [FdinfoEntry] {
        var entries = [FdinfoEntry]()
        let parts = stride(from: 0, to: numbers.count, by: Self.atOnce).map { Array(numbers[$0..<min($0 + Self.atOnce, numbers.count)]) }
        let pidfd = pidfds[process]!
        try Workers.ahead(parts) { part in
            part.map { number in (number, Result { () throws(SyscallError) in try FileProbe(number, of: process, pidfd) }) }
        } use: { probes in
            for (number, probe) in probes {
                func subject() -> CheckpointError.Subject { .descriptor(number, path: (try? Files.link("/proc/\(process)/fd/\(number)")) ?? "?", of: process) }
                let entry = try context.attempt {
                    try CheckpointError.about("dump", subject()) {
                        let probe = try probe.get()
                        let met = try save(probe, process: process, number: number)
                        if !probe.locks.isEmpty { try context.state(of: FileLockDump.self).collect(probe.locks, number, of: process, file: met.id, context) }
                        var entry = FdinfoEntry()
                        (entry.id, entry.type, entry.fd, entry.flags) = (met.id, met.type, UInt32(number), closeOnExec.contains(number) ? 1 : 0)
                        return entry
                    }
                }
                if let entry { entries.append(entry) }
            }
        }
        return entries
    }
    /// Descriptors of ours that are open for this at any time: twice as many.
    private static let atOnce = 256

    /// A file that no descriptor of the tree refers to, such as one in flight in a socket's queue.
    func saveInFlight(_ descriptor: FileDescriptor, _ subject: CheckpointError.Subject) throws -> UInt32 {
        kept.append(descriptor)
        return try CheckpointError.about("dump", subject) { try save(FileProbe(descriptor), process: .current, number: descriptor.number).id }
    }

    private func save(_ probe: FileProbe, process: ThreadID, number: Int32) throws -> Met {
        if context.purpose == .explain { return try look(probe, process, number) }
        let bucket = Bucket(probe, name: probe.info?["eventfd-id"])
        var low = 0, high = known[bucket]?.count ?? 0
        while low < high {
            let middle = (low + high) / 2
            let other = known[bucket]![middle]
            switch try compare(process, number, other) {
            case 0: return other
            case 1: high = middle
            default: low = middle + 1
            }
        }
        let file = OpenFile(probe, id: context.newFileID(), process: process, number: number)
        let kind = try kind(of: file)
        let met = Met(process: process, number: number, id: file.id, type: kind.type)
        // Before it is saved: a socket's queue may hold the socket itself.
        known[bucket, default: []].insert(met, at: low)
        if try !kind.postpones(file, context) { try context.add(try kind.dump(file, context)) }
        return met
    }

    /// For `explain`: what is refused of one opening of a file is refused of any other by the same name, so the kernel's comparisons are
    /// saved. Anonymous files have one name, and each is looked at.
    private func look(_ probe: FileProbe, _ process: ThreadID, _ number: Int32) throws -> Met {
        let bucket = Bucket(probe, name: probe.link)
        if probe.status.type != 0, let met = known[bucket]?.first { return met }
        let file = OpenFile(probe, id: context.newFileID(), process: process, number: number)
        let kind = try kind(of: file)
        if try !kind.postpones(file, context) { _ = try kind.dump(file, context) }
        let met = Met(process: process, number: number, id: file.id, type: kind.type)
        if probe.status.type != 0 { known[bucket] = [met] }
        return met
    }

    /// What no kind can save, a plugin may.
    private func kind(of file: OpenFile) throws -> any OpenFileKind.Type {
        let kind = OpenFileKinds.all.first { $0.claims(file) }
        let refusal = try Unsupported.reason(file) ?? (kind == RegularFile.self ? RegularFile.refusal(file, context) : nil)
        if let kind, refusal == nil { return kind }
        if try context.plugins.dump(file: file.descriptor, id: file.id, of: file.process) || context.mayBePlugins(.dumpFile, file.link, file.subject) { return PluginFile.self }
        throw refusal ?? CheckpointError("dump", file.subject, "files of this kind (\(file.link)) can't be saved", remedy: "close it in the program before the dump")
    }

    /// kcmp(2), KCMP_FILE: 0 equal, 1 less, 2 greater.
    private func compare(_ process: ThreadID, _ number: Int32, _ other: Met) throws -> Int {
        try Syscall.call("kcmp", SYS_kcmp, Int(process.rawValue), Int(other.process.rawValue), 0, Int(number), Int(other.number), on: .task(process))
    }
}

/// What the kernel tells of a descriptor before it is known which open file that is.
struct FileProbe: Sendable {
    /// Our duplicate: the same open file description (pidfd_getfd(2)).
    let descriptor: FileDescriptor
    let status: FileStatus
    /// F_GETFL, without O_CLOEXEC.
    let flags: UInt32
    /// readlink of /proc/PID/fd/N.
    let link: String
    /// fdinfo of an eventfd.
    let info: KeyedLines?
    /// Lines of its fdinfo that tell of locks.
    var locks: [String] = []

    init(_ descriptor: FileDescriptor) throws(SyscallError) {
        self.descriptor = descriptor
        status = try descriptor.status()
        flags = UInt32(truncatingIfNeeded: try descriptor.control(F_GETFL))
        link = status.type == S_IFSOCK ? "socket:[\(status.inode)]" : try Files.link(descriptor.procPath)
        info = Eventfd.isOne(link) ? try Proc.descriptorInfo(descriptor.number, of: .current) : nil
    }

    init(_ number: Int32, of process: ThreadID, _ pidfd: FileDescriptor) throws(SyscallError) {
        try self.init(FileDescriptor.duplicate(number, ofProcess: pidfd))
        if FileLockDump.mayBeLocked(status) { locks = try Proc.descriptorInfo(number, of: process).all("lock") }
    }
}

extension OpenFile {
    fileprivate convenience init(_ probe: FileProbe, id: UInt32, process: ThreadID, number: Int32) {
        self.init(id: id, descriptor: probe.descriptor, process: process, number: number, status: probe.status, flags: probe.flags, link: probe.link, info: probe.info)
    }
}

/// Which of the tasks share a kernel object (kcmp(2)): classes numbered from 2 in order of first sight; 1 is stasis itself.
struct SharingClasses {
    enum Object: Int { case memory = 1, files = 2, fileSystem = 3, signalHandlers = 4 }
    private let object: Object
    private var ordered: [(task: ThreadID, id: UInt32)] = []
    private var next: UInt32 = 2
    init(_ object: Object) { self.object = object }

    mutating func id(of task: ThreadID) throws(SyscallError) -> (id: UInt32, first: ThreadID) {
        var low = 0, high = ordered.count
        while low < high {
            let middle = (low + high) / 2
            switch try Syscall.call("kcmp", SYS_kcmp, Int(task.rawValue), Int(ordered[middle].task.rawValue), object.rawValue, on: .task(task)) {
            case 0: return (ordered[middle].id, ordered[middle].task)
            case 1: high = middle
            default: low = middle + 1
            }
        }
        ordered.insert((task, next), at: low)
        next += 1
        return (next - 1, task)
    }
}
