import Glibc
import ImageMessages
import Images
import Kinds
import Linux

/// Everything a restore reads from its images before it makes anything: checked values.
struct RestoreInput {
    let inventory: InventoryEntry
    /// In the order of pstree.img: parents first.
    let members: [TreePlan.Member]
    let processes: [Int32: ProcessImages]
    let zombies: [Int32: CoreEntry]
    let files: [UInt32: FileEntry]
    /// Descriptors by files_id.
    let tables: [UInt32: [FdinfoEntry]]
    let seccomp: SeccompEntry
    let cgroups: CgroupEntry?
    /// By the ids of their namespaces.
    let networks: [UInt32: NetworkImages]

    /// - Parameter verifies: whether pages come with their checksums.
    init(_ images: ImageDirectory, lazily: Bool = false, verifies: Bool = false) throws {
        // Read once, and held against each other before anything is made.
        let set = try ImageSet(images, verifies: verifies)
        try set.validate(for: ImageTarget(addressSpaceEnd: AddressSpace.end))
        inventory = set.inventory
        var members = [TreePlan.Member](), processes = [Int32: ProcessImages](), zombies = [Int32: CoreEntry]()
        for task in set.tasks {
            let entry = task.process, core = task.core
            let pid = Int32(bitPattern: entry.pid)
            guard core.mtype == .x8664 else { throw CheckpointError("restore", .image("core-\(pid).img"), "it was made on another architecture (\(core.mtype))") }
            guard [1, 2, 3].contains(core.tc.taskState) else { throw CheckpointError("restore", .image("core-\(pid).img"), "task_state \(core.tc.taskState) is unknown") }
            members.append(.init(
                pid: pid, parent: Int32(bitPattern: entry.ppid), group: Int32(bitPattern: entry.pgid), session: Int32(bitPattern: entry.sid), dead: task.isDead,
                threads: entry.threads.map { Int32(bitPattern: $0) }))
            if task.isDead { zombies[pid] = core; continue }
            guard let ids = task.ids, let mm = task.mm, let fs = task.fs else { throw CheckpointError("restore", .task(.init(pid)), "its ids, mm or fs image is missing") }
            try Self.refuseNamespaces(ids, inventory.rootIds, pid)
            if let first = processes.values.first, first.ids.cgroupNsID != ids.cgroupNsID {
                throw CheckpointError("restore", .image("ids-\(pid).img"), "not all tasks were in one cgroup namespace: not supported yet")
            }
            let pages = try PageImage(set.pages, .pagemap, entry.pid)
            if !lazily, let first = pages.elsewhere.first {
                throw CheckpointError("restore", .image("pagemap-\(pid).img"), "the page at 0x\(String(first.lowerBound, radix: 16)) is still with the machine of the dump", remedy: "stasis lazy-pages with --page-server, and restore --lazy-pages")
            }
            processes[pid] = ProcessImages(
                pstree: entry, core: core, threads: task.threads.map { (Int32(bitPattern: $0.id), $0.core) }, ids: ids, mm: mm, fs: fs, pages: pages, set: set)
        }
        (self.members, self.processes, self.zombies) = (members, processes, zombies)
        (tables, seccomp, cgroups, networks) = (set.descriptors, set.seccomp, set.cgroup, set.namespaces.net)
        files = set.files.entries
    }

    private static func refuseNamespaces(_ ids: TaskKobjIdsEntry, _ root: TaskKobjIdsEntry, _ pid: Int32) throws {
        let pairs: [(String, UInt32, UInt32)] = [
            ("pid", ids.pidNsID, root.pidNsID), ("ipc", ids.ipcNsID, root.ipcNsID),
            ("uts", ids.utsNsID, root.utsNsID), ("mnt", ids.mntNsID, root.mntNsID), ("user", ids.userNsID, root.userNsID),
        ]
        for (name, its, ours) in pairs where its != ours {
            throw CheckpointError("restore", .image("ids-\(pid).img"), "the task lived in a \(name) namespace of its own: not supported yet")
        }
    }

    func network(_ settings: RestoreSettings) throws -> TreeNetwork {
        let network = try TreeNetwork(processes.sorted { $0.key < $1.key }.map(\.value.ids), besides: inventory.rootIds, networks, settings)
        if let other = files.values.first(where: { ![nil, 0, network.id].contains($0.networkNamespaceID) }) {
            throw CheckpointError("restore", .image("files.img"), "file id \(other.id) is of another network namespace than the tree: not supported yet")
        }
        return network
    }

    /// Ids that are taken here, said before anything is made. Tasks that a dump has just killed may need a moment to be gone.
    func checkIDs(_ plan: TreePlan) throws {
        let patience = Clock.monotonic() + 1_000_000_000
        for id in plan.ids.sorted() {
            while (try? Files.status("/proc/\(id)")) != nil, Clock.monotonic() < patience { usleep(2000) }
            if let taken = Self.taken(id) { throw taken }
        }
    }

    static func taken(_ id: Int32) -> CheckpointError? {
        guard let stat = try? TaskStat.read("/proc/\(id)/stat") else { return nil }
        return CheckpointError("restore", .task(.init(id)), "its id is taken by \(stat.comm)", remedy: "end that process, or restore in a pid namespace of its own", errno: Errno(EEXIST))
    }

    /// Files that some descriptor, or a queue, refers to, by type; others are opened where they are used.
    func filesInUse(_ context: RestoreContext) throws -> [FdTypes: [FileEntry]] {
        var used = Set(tables.values.joined().map(\.id))
        if context.images.exists("sk-queues.img") {
            var reader = try context.images.reader("sk-queues.img")
            while let packet = try reader.next(SkPacketEntry.self) {
                used.formUnion(packet.scm.flatMap(\.rights))
                _ = try reader.payload(UInt64(packet.length))
            }
        }
        return context.filesByType.compactMapValues { files in
            let mine = files[0].type == .reg || files[0].type == .memfd ? files.filter { used.contains($0.id) } : files
            return mine.isEmpty ? nil : mine
        }
    }
}

extension FileEntry {
    /// Of sockets and tun files: the network namespace that they belong to.
    fileprivate var networkNamespaceID: UInt32? {
        switch type {
        case .inetsk: isk.hasNsID ? isk.nsID : nil
        case .unixsk: usk.hasNsID ? usk.nsID : nil
        case .packetsk: psk.hasNsID ? psk.nsID : nil
        case .netlinksk: nlsk.hasNsID ? nlsk.nsID : nil
        case .tunf: tunf.hasNsID ? tunf.nsID : nil
        default: nil
        }
    }
}
