import Glibc
package import ImageMessages
import Images
import Linux

/// Open files of namespaces, as /proc/PID/ns/KIND gives them (namespaces(7); format README 11.11). Those that the tree is in only, so far:
/// the host's, and the network namespace of the tree, which is the one that this thread is in when it dumps and restores.
package enum NamespaceFile: OpenFileKind {
    package static var type: FdTypes { .ns }

    /// The name in /proc/PID/ns, the flag of clone(2), and the id of the namespace in a set of ids.
    private static let kinds: [(name: String, flag: UInt32, id: @Sendable (TaskKobjIdsEntry) -> UInt32)] = [
        ("pid", 0x2000_0000, { $0.pidNsID }), ("net", 0x4000_0000, { $0.netNsID }), ("ipc", 0x800_0000, { $0.ipcNsID }), ("uts", 0x400_0000, { $0.utsNsID }),
        ("time", 0x80, { $0.timeNsID }), ("mnt", 0x2_0000, { $0.mntNsID }), ("user", 0x1000_0000, { $0.userNsID }), ("cgroup", 0x200_0000, { $0.cgroupNsID }),
    ]

    package static func claims(_ file: OpenFile) -> Bool {
        file.status.type == S_IFREG && !file.link.hasPrefix("/") && kinds.contains { file.link.hasPrefix($0.name + ":[") }
    }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        guard let kind = kinds.first(where: { file.link.hasPrefix($0.name + ":[") }),
            let own = try? Files.status("/proc/thread-self/ns/\(kind.name)"), InodeKey(own) == InodeKey(file.status) else {
            throw CheckpointError("dump", file.subject, "it is a namespace that the tree is not in: not supported yet", remedy: "close it in the program before the dump")
        }
        var entry = FileEntry()
        (entry.type, entry.id) = (.ns, file.id)
        let id = kind.flag == NetworkNamespace.flag ? context.networkNamespaceID : kind.id(Namespaces.ownIDs)
        (entry.nsf.id, entry.nsf.nsID, entry.nsf.nsCflag, entry.nsf.flags) = (file.id, id, kind.flag, file.flags)
        return entry
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        if entries.isEmpty { return }
        let host = try context.images.inventory().rootIds
        for entry in entries {
            let subject = CheckpointError.Subject.object("namespace file \(entry.id)")
            guard entry.hasNsf, let kind = kinds.first(where: { $0.flag == entry.nsf.nsCflag }) else {
                throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) of type NS names no kind of namespace")
            }
            guard entry.nsf.nsID == (kind.flag == NetworkNamespace.flag ? context.networkNamespaceID : kind.id(host)) else {
                throw CheckpointError("restore", subject, "it is a \(kind.name) namespace that the tree was not in: not supported yet")
            }
            context.made(entry.id, try CheckpointError.about("restore", subject) {
                try FileDescriptor.open("/proc/thread-self/ns/\(kind.name)", OpenFlags.again(entry.nsf.flags, mode: nil))
            })
        }
    }
}
