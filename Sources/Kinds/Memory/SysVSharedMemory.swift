import CLinux
import Glibc
package import Graft
package import ImageMessages
import Images
import Linux

/// System V shared memory, shmget(2), in an ipc namespace that the tree shares with us. CRIU refuses it there; we keep the
/// segments that the tree has attached: what they are in the inventory (extension host_shm), their content in pagemap-shmem-ID.img.
///
/// A segment outlives its users, so a restore may find it: it is used again when key, size and creator are the same, and gets the
/// content of the images, unless somebody else has it attached right now, whose memory we do not turn back.
package enum SysVSharedMemory {
    /// shmctl(2): commands, and flags in the mode.
    private static let remove = 0, set = 1, stat = 2, lock = 11
    private static let destroyed: UInt32 = 0o1000, locked: UInt32 = 0o2000
    private static let huge: UInt32 = 0o4000

    /// struct shmid64_ds (include/uapi/asm-generic/shmbuf.h, ipcbuf.h).
    private struct Descriptor {
        var key: UInt32 = 0, uid: UInt32 = 0, gid: UInt32 = 0, cuid: UInt32 = 0, cgid: UInt32 = 0, mode: UInt32 = 0
        var sequence: UInt16 = 0, pad: UInt16 = 0, unused: (UInt64, UInt64) = (0, 0)
        var size: UInt64 = 0, attachTime: Int64 = 0, detachTime: Int64 = 0, changeTime: Int64 = 0
        var creator: Int32 = 0, lastUser: Int32 = 0, attached: UInt64 = 0, unusedAtEnd: (UInt64, UInt64) = (0, 0)

        static func read(_ id: UInt32) throws(SyscallError) -> Descriptor {
            var found = Descriptor()
            try Syscall.call("shmctl(IPC_STAT)", SYS_shmctl, value: &found, at: 2, Int(id), stat)
            return found
        }
    }

    // Dump.

    private final class Met: DumpState { var ids: Set<UInt64> = [] }

    /// A mapping of segment `id` was met. Its content is saved by `finishDump`.
    package static func dump(id: UInt64, _ context: DumpContext) throws { context.state(of: Met.self).ids.insert(id) }

    /// Saves every segment that was met; the tasks still stand, with the segments attached.
    package static func finishDump(_ context: DumpContext) throws {
        var left = context.state(of: Met.self).ids
        let ours = try Files.link("/proc/self/ns/ipc")
        for process in context.processes where !left.isEmpty {
            for mapping in try Mapping.all(of: process, withFlags: false) {
                guard case .sysV(let id) = MappingKind(mapping), left.remove(id) != nil else { continue }
                try CheckpointError.about("dump", .object("System V shared memory \(id) of task \(process)")) {
                    let isHost = try Files.link("/proc/\(process)/ns/ipc") == ours
                    try save(UInt32(truncatingIfNeeded: id), try FileDescriptor.open(mapping.mapFile(of: process), O_RDONLY), isHost: isHost, context)
                }
            }
        }
    }

    private static func save(_ id: UInt32, _ file: FileDescriptor, isHost: Bool, _ context: DumpContext) throws {
        try SharedMemory.dumpSegment(file, shmid: UInt64(id), size: UInt64(clamping: try file.status().size), context: context)
        guard isHost else { return }
        let found = try Descriptor.read(id)
        var entry = IpcShmEntry()
        (entry.size, entry.inPagemaps) = (found.size, true)
        (entry.desc.key, entry.desc.uid, entry.desc.gid, entry.desc.cuid, entry.desc.cgid) = (found.key, found.uid, found.gid, found.cuid, found.cgid)
        (entry.desc.mode, entry.desc.id) = (found.mode, id)
        if let size = try FileSystemStatus(file).hugePageSize { entry.hugetlbFlag = huge | UInt32(size.trailingZeroBitCount) << 26 }
        context.hostSharedMemory.append(entry)
    }

    /// The ids of the segments in our namespace (/proc/sysvipc/shm, sysvipc(7)).
    static func hostSegments() throws(SyscallError) -> Set<UInt64> {
        let lines: Substring
        do throws(SyscallError) { lines = try Files.text("/proc/sysvipc/shm").drop { $0 != "\n" } }
        catch { return [] }  // a kernel without System V ipc
        return Set(lines.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            return words.count > 1 ? UInt64(words[1]) : nil
        })
    }

    // Restore.

    private final class Segments: DumpState { var made: [IpcShmEntry]? }

    /// Makes the segments of the inventory, before the first task attaches one.
    private static func makeAll(_ context: RestoreContext) throws {
        let segments = context.state(of: Segments.self)
        if segments.made != nil { return }
        segments.made = try context.images.inventory().stasis.hostShm
        try makeAll(segments.made ?? [], context)
    }

    static func makeAll(_ entries: [IpcShmEntry], _ context: RestoreContext) throws {
        for entry in entries {
            let subject = subject(entry)
            try CheckpointError.about("restore", subject) { try make(entry, subject, context) }
        }
    }

    /// The segment that has the id, when it is the one of the images.
    private static func present(_ entry: IpcShmEntry, _ subject: CheckpointError.Subject) throws -> Descriptor? {
        guard let present = try? Descriptor.read(entry.desc.id) else { return nil }
        guard present.key == entry.desc.key || entry.desc.mode & destroyed != 0, present.size == entry.size, present.cuid == entry.desc.cuid, present.cgid == entry.desc.cgid else {
            throw CheckpointError("restore", subject, "its id is taken by another segment of \(present.size) bytes", remedy: "remove that with ipcrm -m \(entry.desc.id) when nobody needs it, and restore again")
        }
        return present
    }
    private static func keyTaken(_ entry: IpcShmEntry, _ subject: CheckpointError.Subject) -> CheckpointError {
        let key = "0x\(String(entry.desc.key, radix: 16))"
        return CheckpointError("restore", subject, "another segment has its key \(key)", remedy: "remove that with ipcrm -M \(key) when nobody needs it, and restore again", errno: Errno(EEXIST))
    }
    private static func subject(_ entry: IpcShmEntry) -> CheckpointError.Subject {
        .object("System V shared memory \(entry.desc.id)" + (entry.desc.key == 0 ? "" : " (key 0x\(String(entry.desc.key, radix: 16)))"))
    }

    /// What `makeAll` would refuse.
    package static func check(_ context: RestoreContext) throws {
        for entry in try context.images.inventory().stasis.hostShm {
            try context.verify("\(subject(entry))", "its id and key are free, or its own") {
                if try present(entry, subject(entry)) != nil || entry.desc.key == 0 { return }
                if (try? Syscall.call("shmget", SYS_shmget, Int(entry.desc.key), 0, 0)) != nil { throw keyTaken(entry, subject(entry)) }
            }
        }
    }

    private static func make(_ entry: IpcShmEntry, _ subject: CheckpointError.Subject, _ context: RestoreContext) throws {
        let id = entry.desc.id
        guard entry.size > 0, entry.size < 1 << 62, id < 1 << 31 else { throw CheckpointError("restore", .image("inventory.img"), "host_shm: segment \(id) has \(entry.size) bytes") }
        var isFresh = false
        if let present = try present(entry, subject) {
            if present.attached > 0 {
                context.log.warn("System V shared memory \(id) is attached by others: it keeps the content it has")
                return
            }
        } else {
            try create(entry, subject)
            isFresh = true
            context.undo.append { _ = try? Syscall.call("shmctl(IPC_RMID)", SYS_shmctl, Int(id), remove) }
        }
        try fill(entry, isFresh: isFresh, context)
        var wanted = try Descriptor.read(id)
        (wanted.uid, wanted.gid, wanted.mode) = (entry.desc.uid, entry.desc.gid, entry.desc.mode & 0o777)
        try Syscall.call("shmctl(IPC_SET)", SYS_shmctl, value: &wanted, at: 2, Int(id), set)
        if entry.desc.mode & locked != 0 { try Syscall.call("shmctl(SHM_LOCK)", SYS_shmctl, Int(id), lock) }
    }

    /// The sysctl shm_next_id gives the next segment its id (Documentation/admin-guide/sysctl/kernel.rst); who calls is the creator.
    private static func create(_ entry: IpcShmEntry, _ subject: CheckpointError.Subject) throws {
        let id = entry.desc.id
        let flags = 0o3000 /* IPC_CREAT | IPC_EXCL */ | Int(entry.desc.mode & 0o777) | (entry.hasHugetlbFlag && entry.hugetlbFlag != 0 ? Int(huge | entry.hugetlbFlag & 0x3f << 26) : 0)
        try Files.write("\(id)", to: "/proc/sys/kernel/shm_next_id")
        let mine = (geteuid(), getegid())
        try Syscall.call("setresgid", SYS_setresgid, -1, Int(entry.desc.cgid), -1)
        defer { _ = try? Syscall.call("setresgid", SYS_setresgid, -1, Int(mine.1), -1) }
        try Syscall.call("setresuid", SYS_setresuid, -1, Int(entry.desc.cuid), -1)
        defer { _ = try? Syscall.call("setresuid", SYS_setresuid, -1, Int(mine.0), -1) }
        let got: Int
        do throws(SyscallError) { got = try Syscall.call("shmget", SYS_shmget, Int(entry.desc.key), Int(entry.size), flags) }
        catch {
            _ = try? Files.write("-1", to: "/proc/sys/kernel/shm_next_id")
            if error.errno == Errno(EEXIST) {
                throw keyTaken(entry, subject)
            }
            throw error
        }
        if got != Int(id) {
            _ = try? Syscall.call("shmctl(IPC_RMID)", SYS_shmctl, got, remove)
            throw CheckpointError("restore", subject, "its id is not free; the kernel gave \(got)", remedy: "remove the segment that has its place: ipcs -m lists them")
        }
    }

    private static func fill(_ entry: IpcShmEntry, isFresh: Bool, _ context: RestoreContext) throws {
        let image = try SegmentImage(shmid: UInt64(entry.desc.id), size: entry.size, context)
        if isFresh && image == nil { return }
        let page = 4096, length = (Int(entry.size) + page - 1) & ~(page - 1)
        let address = try Syscall.call("shmat", SYS_shmat, Int(entry.desc.id), 0, 0)
        defer { _ = try? Syscall.call("shmdt", SYS_shmdt, address) }
        let isHuge = entry.hasHugetlbFlag && entry.hugetlbFlag != 0
        let size = isHuge ? (length + (1 << Int(entry.hugetlbFlag >> 26 & 0x3f)) - 1) & -(1 << Int(entry.hugetlbFlag >> 26 & 0x3f)) : length
        let file = try FileDescriptor.open("/proc/self/map_files/\(String(address, radix: 16))-\(String(address + size, radix: 16))", O_RDWR)
        if !isFresh {
            try Syscall.call("fallocate", SYS_fallocate, Int(file.number), 3 /* FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE */, 0, size, on: .fd(file.number))
        }
        try image?.fill(file, mapped: isHuge)
    }

    /// Attaches the segments that these mappings of one process show, with shmat(2) in the task, and cuts them to the pieces that
    /// the process had. Before the process's other mappings: a segment is attached whole.
    package static func attach(_ mappings: [VmaEntry], to stream: CallStream, _ context: RestoreContext) throws {
        if mappings.isEmpty { return }
        try makeAll(context)
        var at = 0
        while at < mappings.count {
            let first = mappings[at]
            guard first.start >= first.pgoff else { throw CheckpointError("restore", .object("a mapping of System V shared memory"), "its offset \(first.pgoff) lies before its segment") }
            let base = first.start - first.pgoff
            var pieces = [first]
            at += 1
            while at < mappings.count, mappings[at].shmid == first.shmid, mappings[at].start >= mappings[at].pgoff, mappings[at].start - mappings[at].pgoff == base {
                pieces.append(mappings[at])
                at += 1
            }
            try attach(pieces, at: base, to: stream)
        }
    }

    private static func attach(_ pieces: [VmaEntry], at base: UInt64, to stream: CallStream) throws {
        let id = UInt32(truncatingIfNeeded: pieces[0].shmid)
        let subject = CheckpointError.Subject.object("System V shared memory \(id)")
        let size = try CheckpointError.about("restore", subject) { try Descriptor.read(id).size }
        let end = base &+ (size &+ 4095) & ~4095
        guard let last = pieces.last, last.end <= end else { throw CheckpointError("restore", subject, "a mapping goes beyond its end") }
        let writable = pieces.contains { $0.fdflags != 0 || $0.prot & 2 != 0 }, executable = pieces.contains { $0.prot & 4 != 0 }
        try stream.call("shmat", SYS_shmat, UInt64(id), base, (writable ? 0 : 0o10000) | (executable ? 0o100000 : 0))
        let given: UInt32 = 1 | (writable ? 2 : 0) | (executable ? 4 : 0)
        var from = base
        for piece in pieces {
            if piece.start > from { try stream.call("munmap", SYS_munmap, from, piece.start - from) }
            if piece.prot != given { try stream.call("mprotect", SYS_mprotect, piece.start, piece.end - piece.start, UInt64(piece.prot)) }
            from = piece.end
        }
        if from < end { try stream.call("munmap", SYS_munmap, from, end - from) }
    }

    /// When every task has attached its segments: those that were already marked for removal are, again.
    static func finishRestore(_ context: RestoreContext) throws {
        for entry in context.state(of: Segments.self).made ?? [] where entry.desc.mode & destroyed != 0 {
            _ = try? Syscall.call("shmctl(IPC_RMID)", SYS_shmctl, Int(entry.desc.id), remove)
        }
    }
}
