package import ImageMessages
package import Linux

/// The namespaces of a tree, compared with our own. Ids as CRIU gives them: its own come first, in the order of `Kind`.
package struct Namespaces {
    package enum Kind: String, CaseIterable { case pid, net, ipc, uts, time, mnt, user, cgroup }

    /// Our namespaces are 1 to 8; a task that lives in the same ones has the same ids.
    package static var ownIDs: TaskKobjIdsEntry {
        var ids = TaskKobjIdsEntry()
        (ids.pidNsID, ids.netNsID, ids.ipcNsID, ids.utsNsID) = (1, 2, 3, 4)
        (ids.timeNsID, ids.mntNsID, ids.userNsID, ids.cgroupNsID) = (5, 6, 7, 8)
        return ids
    }

    package private(set) var ids = Self.ownIDs
    /// The network namespace that all processes of the tree are in, if it is not ours.
    private var network: FileDescriptor?

    /// What is neither ours nor can be made again is refused: the containers' issue.
    package static func check(_ processes: [ThreadID], _ context: DumpContext) throws -> Namespaces {
        var found = Namespaces(), next = UInt32(Kind.allCases.count) + 1
        func refuse(_ process: ThreadID, _ cause: String) throws {
            try context.refuse(CheckpointError("dump", .task(process), "\(cause): not supported yet"))
        }
        let another = "another one than that of its tree's root", leaders = Set(processes)
        // A thread may go elsewhere alone (setns(2)); what it opens is of that network.
        if let root = processes.first, let network = try? Files.status("/proc/\(root)/ns/net").inode {
            for thread in context.members where !leaders.contains(thread) && (try? Files.status("/proc/\(thread)/ns/net").inode) ?? network != network {
                try refuse(thread, "its net namespace is \(another)")
            }
        }
        for kind in Kind.allCases.map(\.rawValue) + ["pid_for_children", "time_for_children"] {
            guard let own = try? Files.link("/proc/self/ns/\(kind)"), let root = processes.first else { continue }  // a kernel without this kind
            // Unreadable where a namespace for children has no process yet (namespaces(7)).
            let theirs = processes.map { (id: $0, namespace: try? Files.link("/proc/\($0)/ns/\(kind)")) }
            guard let other = theirs.first(where: { $0.namespace != own }) else { continue }
            guard kind == "net" || kind == "cgroup" else {
                for (id, namespace) in theirs where namespace != own { try refuse(id, "its \(kind) namespace is one of its own (\(namespace ?? "empty"))") }
                continue
            }
            for (id, namespace) in theirs where namespace != theirs[0].namespace {
                try refuse(id, "its \(kind) namespace is \(another)")
            }
            if other.id != root { continue }
            if kind == "net" {
                found.network = try CheckpointError.about("dump", .task(root)) { try NetworkNamespace.open("/proc/\(root)/ns/net") }
                found.ids.netNsID = next
            } else { found.ids.cgroupNsID = next }
            next += 1
        }
        return found
    }

    /// Saves the tree's network namespace, if it is not ours, and holds its packets back.
    package func saveNetwork(_ context: DumpContext) throws {
        guard let network else { return }
        let key = context.settings.external.value("net", try network.status().inode)
        try TreeNetwork.dump(as: ids.netNsID, external: key, context)
        // Others live in one that is external: of their packets none is held back.
        if key == nil { try PacketLock.holdNamespace(context) }
    }

    /// Goes where the tree's network is, if that is not where we are: there its sockets are looked at. What a killed dump has left locked there is unlocked.
    package func enterNetwork(_ context: DumpContext) throws -> NetworkStay? {
        guard let network else { return nil }
        context.networkNamespaceID = ids.netNsID
        let stay = try CheckpointError.about("dump", .object("the tree's network namespace"), remedy: "run as root, or with CAP_SYS_ADMIN") { try NetworkStay(in: network) }
        let hook = context.hook
        context.hook = { point in try stay.outside { try hook(point) } }  // action scripts are of our network
        if context.purpose == .dump { PacketLock.liftStale(context.log) }
        return stay
    }
}

/// timens-0.img: the clocks at the moment of the dump (format README 15.1).
package enum TimeNamespace {
    package static func clocks() -> TimensEntry {
        var entry = TimensEntry()
        let monotonic = Clock.monotonic(), boottime = Clock.boottime()
        (entry.monotonic.tvSec, entry.monotonic.tvNsec) = (monotonic / 1_000_000_000, monotonic % 1_000_000_000)
        (entry.boottime.tvSec, entry.boottime.tvNsec) = (boottime / 1_000_000_000, boottime % 1_000_000_000)
        return entry
    }
}
