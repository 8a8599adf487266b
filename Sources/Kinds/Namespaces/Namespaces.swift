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

    /// Whether the tree has a cgroup namespace of its own, which all its processes are in.
    private let hasCgroupNamespace: Bool
    package var ids: TaskKobjIdsEntry {
        var ids = Self.ownIDs
        if hasCgroupNamespace { ids.cgroupNsID = 9 }
        return ids
    }

    /// Namespaces of their own come with the containers' issue: until then a tree that has some is refused.
    package static func check(_ processes: [ThreadID], _ context: DumpContext) throws -> Namespaces {
        let cgroup = processes.first.flatMap { try? Files.link("/proc/\($0)/ns/cgroup") }
        for process in processes where (try? Files.link("/proc/\(process)/ns/cgroup")) != cgroup {
            try context.refuse(CheckpointError("dump", .task(process), "its cgroup namespace is another one than that of its tree's root: not supported yet"))
        }
        for kind in Kind.allCases.filter({ $0 != .cgroup }).map(\.rawValue) + ["pid_for_children", "time_for_children"] {
            guard let own = try? Files.link("/proc/self/ns/\(kind)") else { continue }  // a kernel without this kind
            for process in processes {
                // Unreadable where a namespace for children has no process yet (namespaces(7)).
                let theirs = try? Files.link("/proc/\(process)/ns/\(kind)")
                if theirs != own {
                    try context.refuse(CheckpointError("dump", .task(process), "its \(kind) namespace is one of its own (\(theirs ?? "empty")): not supported yet"))
                }
            }
        }
        return Namespaces(hasCgroupNamespace: cgroup != (try? Files.link("/proc/self/ns/cgroup")))
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
