import CLinux
import Glibc
import Graft
package import ImageMessages
package import Linux

/// io_uring(7): idle rings, with their mappings, what waits in them, registered files and buffers. A kind of our own; CRIU has none.
///
/// The kernel's own counters can't be set, so the new ring does as many requests of nothing (IORING_OP_NOP) as the old one had done; then its memory
/// is written as it was. It is made in the task that has it, where its requests will run; nobody can be sent one (SCM_RIGHTS), others of the tree
/// take it from that task. What the kernel does not tell: IORING_SETUP_SUBMIT_ALL is set, COOP_TASKRUN is not (both may be noticed by none who
/// looks at what io_uring_enter(2) answers); registered credentials and tags are gone.
package enum IOUringFile: OpenFileKind {
    package static var type: FdTypes { .stasisIoUring }
    /// A restore does three to seven millions a second.
    static let mostRequests: UInt32 = 100_000_000
    static let link = "anon_inode:[io_uring]"

    package static func claims(_ file: OpenFile) -> Bool { file.link == link }

    // Dump

    /// It is asked about in its task, when all descriptors of that are known (`IOUringDump`).
    package static func postpones(_ file: OpenFile, _ context: DumpContext) throws -> Bool {
        context.state(of: IOUringDump.self).take(file)
        // No more can be told while it runs.
        guard context.purpose == .explain else { return true }
        let info = try CheckpointError.about("dump", file.subject) { try self.info(file.descriptor) }
        if let reason = refusal(info) { throw refuse(file.subject, reason) }
        return true
    }
    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry { preconditionFailure("rings are postponed") }

    static func info(_ ring: FileDescriptor) throws -> IOUringInfo {
        guard let info = IOUringInfo(parsing: try Files.text("/proc/self/fdinfo/\(ring.number)")) else {
            throw CheckpointError("dump", .object(link), "its fdinfo does not tell of a ring")
        }
        return info
    }

    /// Why a ring can't be saved, as far as fdinfo tells.
    static func refusal(_ info: IOUringInfo) -> String? {
        if info.submitter != -1 { return "a thread of the kernel, \(info.submitter), submits for it (IORING_SETUP_SQPOLL)" }
        if info.waiting > 0 { return "\(info.waiting) of its requests wait for a file to become ready" }
        if info.overflown > 0 { return "\(info.overflown) completions had no room in it" }
        let missing = Int32(bitPattern: info.submitted &- info.completed)
        if missing > 0 { return "\(missing) of its requests are in flight, or were to tell of success by nothing (IOSQE_CQE_SKIP_SUCCESS)" }
        if missing < 0 { return "it has given \(-missing) completions more than it was given requests (multishot): whether one is in flight can't be told" }
        if info.completed > mostRequests { return "it has done \(info.completed) requests; the most that a restore repeats are \(mostRequests)" }
        if info.buffers.contains(where: { $0.value.address == 0 }) { return "buffers that are not the program's own are registered with it" }
        return nil
    }
    static func refuse(_ subject: CheckpointError.Subject, _ reason: String) -> CheckpointError {
        CheckpointError(
            "dump", subject, "the io_uring can't be saved: \(reason)",
            remedy: "dump when it is idle and without these, or let the program use its fallback without io_uring (sysctl kernel.io_uring_disabled=2)")
    }

    /// The file id of the ring that a mapping belongs to: each has an inode of its own.
    package static func fileID(mapping: Mapping, _ subject: CheckpointError.Subject, _ context: DumpContext) throws -> UInt32 {
        guard mapping.offset <= IOUring.entriesOffset else { throw CheckpointError("dump", subject, "it is a ring of provided buffers of an io_uring, which can't be saved") }
        guard let id = context.state(of: IOUringDump.self).id(inode: mapping.inode) else {
            throw CheckpointError("dump", subject, "it belongs to an io_uring that no task of the tree met so far has a descriptor of", remedy: "let the program keep the descriptor of its ring open")
        }
        return id
    }

    // Restore

    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries { try context.verify("io_uring, file id \(entry.id)", "this kernel lays it out as the dump's did") { _ = try layout(entry.ring, context) } }
    }
    /// They are made in their tasks.
    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {}

    package static func inTask(_ descriptors: [(number: Int32, entry: FileEntry)], _ task: any RestoredTask, _ context: RestoreContext) throws {
        let made = context.state(of: IOUringRestore.self)
        for (number, entry) in descriptors {
            try CheckpointError.about("restore", .descriptor(number, path: link, of: task.pid)) {
                guard entry.hasRing else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) has no ring entry") }
                try made.place(entry.id, try made.number(of: entry.id, in: task) ?? made.make(entry.ring, in: task, context), at: number, in: task)
            }
        }
    }

    /// Maps rings where they were, in place of what kept their addresses free. Nobody may tell the kernel where to map a ring
    /// (io_uring_get_unmapped_area), so each finds one gap only: everywhere else there is something.
    package static func map(_ mappings: [VmaEntry], in task: any RestoredTask, _ context: RestoreContext) throws {
        let rings = mappings.filter { $0.statusBits.contains(.ioUring) }
        guard let shortest = rings.map(\.length).min() else { return }
        let gaps = try AddressSpace.gaps(of: task.pid).filter { UInt64($0.count) >= shortest }
        try CheckpointError.about("restore", .task(task.pid)) {
            let calls = CallStream(task.grafted)
            for gap in gaps { try calls.call("mmap", SYS_mmap, gap.lowerBound, UInt64(gap.count), 0, 0x104022 /* MAP_FIXED_NOREPLACE, NORESERVE, ANONYMOUS, PRIVATE */, .max, 0) }
            try calls.flush()
            for mapping in rings { try map(mapping, in: task, context) }
            for gap in gaps { try calls.call("munmap", SYS_munmap, gap.lowerBound, UInt64(gap.count)) }
            try calls.flush()
        }
    }
    private static func map(_ mapping: VmaEntry, in task: any RestoredTask, _ context: RestoreContext) throws {
        try CheckpointError.about("restore", .mapping(mapping.start..<mapping.end, name: link, of: task.pid)) {
            guard let id = UInt32(exactly: mapping.shmid), let ring = try context.state(of: IOUringRestore.self).number(of: id, in: task) else {
                throw CheckpointError("restore", .image("mm-\(task.pid).img"), "no task has the io_uring with file id \(mapping.shmid)")
            }
            var batch = task.grafted.batch()
            batch.call("munmap", SYS_munmap, .init(mapping.start), .init(mapping.length))
            let mapped = batch.call("mmap", SYS_mmap, 0, .init(mapping.length), .init(mapping.prot), 1 /* MAP_SHARED */, .init(ring.number), .init(mapping.pgoff))
            for advice in [10, 16] as [UInt64] where mapping.hasMadv && mapping.madv & 1 << advice != 0 {  // MADV_DONTFORK, MADV_DONTDUMP
                batch.call("madvise", SYS_madvise, .init(mapping.start), .init(mapping.length), .init(advice))
            }
            if ring.isTemporary { batch.call("close", SYS_close, .init(ring.number)) }
            try task.grafted.run(&batch)
            guard UInt64(batch.result(mapped)) == mapping.start else { throw CheckpointError("restore", .task(task.pid), "the kernel mapped a ring at 0x\(String(batch.result(mapped), radix: 16)), where there was to be no room") }
        }
    }

    /// The ring's layout here, which has to be that of the dump: the program knows it.
    static func layout(_ ring: StasisIoUringEntry, _ context: RestoreContext) throws -> IOUringLayout {
        func refuse(_ what: String) -> CheckpointError { CheckpointError("restore", .image("files.img"), "io_uring, file id \(ring.id): \(what)") }
        guard (1...32768).contains(ring.submissions), ring.submissions.nonzeroBitCount == 1, (1...65536).contains(ring.completions), ring.completions.nonzeroBitCount == 1 else {
            throw refuse("\(ring.submissions) and \(ring.completions) entries")
        }
        guard ring.done <= mostRequests else { throw refuse("\(ring.done) requests are too many to be repeated") }
        let shape = ring.setup & (IOUring.Setup.wideSubmissions | IOUring.Setup.wideCompletions)
        let layout = try CheckpointError.about("restore", .object(link), remedy: "allow io_uring: sysctl kernel.io_uring_disabled=0") {
            try IOUringLayout(submissions: ring.submissions, completions: ring.completions, shape: shape)
        }
        guard layout.offsets == ring.offsets else { throw refuse("this kernel lays rings out in another way than that of the dump") }
        guard ring.rings.count <= layout.ringsSize(withArray: true), ring.rings.count >= layout.ringsSize(withArray: false), ring.entries.count == layout.submissionsSize else { throw refuse("its memory has another size than its rings") }
        guard ring.fileSlots <= 1 << 20, ring.bufferSlots <= 1 << 14, ring.files.allSatisfy({ $0.slot < ring.fileSlots }), ring.buffers.allSatisfy({ $0.slot < ring.bufferSlots }) else { throw refuse("its registered files or buffers are out of range") }
        if !ring.buffers.isEmpty, context.settings.postponesPages { throw refuse("its registered buffers are memory that has to be there: restore without --lazy-pages") }
        return layout
    }
}
