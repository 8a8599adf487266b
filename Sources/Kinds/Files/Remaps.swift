import Glibc
import ImageMessages
import Images
import Linux

/// Files whose path does not lead to them any more: remap-fpath.img (format README 11.4).
enum Remaps {
    enum Target: Equatable { case ghost(UInt32), linked(UInt32), process(Int32) }

    // MARK: Dump

    /// Saves what a restore needs to find a file again that is not at its path.
    static func save(_ found: PathFiles.Found, _ name: PathName, _ context: DumpContext) throws {
        switch name {
        case .present: return
        // The kernel calls only the directory of a dead process deleted, not the files below it.
        case .deleted(let path) where isOnProc(found.status), .hidden(let path) where isOnProc(found.status): try saveProcess(found, path, context)
        case .deleted(let path):
            // A directory has one name only; its count of links says nothing (btrfs).
            if found.status.links == 0 || found.status.type == S_IFDIR {
                try saveGhost(found, path, context)
            } else if let id = try LinkRemap.save(found, path, context) {
                try add(found.id, id, .linked, context)
            } else {
                try saveGhost(found, path, context)
            }
        case .hidden(let path):
            throw CheckpointError(
                "dump", found.subject, "its path \(path) leads to another file, or nowhere: something is mounted over it, or its mount was detached",
                remedy: "unmount what hides it, or close it in the program before the dump")
        }
    }

    private static func saveGhost(_ found: PathFiles.Found, _ path: String, _ context: DumpContext) throws {
        try add(found.id, try GhostFiles.save(found, path, context), .ghost, context)
    }

    /// A file of a process that is gone: a process with its number has to be there when it is opened again.
    private static func saveProcess(_ found: PathFiles.Found, _ path: String, _ context: DumpContext) throws {
        guard let process = PathName.process(path) else {
            throw CheckpointError("dump", found.subject, "\(path) was removed from /proc and can't be opened again")
        }
        if context.members.contains(ThreadID(process)) {
            throw CheckpointError("dump", found.subject, "\(path) belonged to a thread that ended, or to an earlier process with this number")
        }
        try add(found.id, UInt32(process), .procfs, context)
    }

    private static func isOnProc(_ status: FileStatus) -> Bool {
        (try? Files.status("/proc/self/stat")).map { $0.device == status.device } ?? false
    }

    private static func add(_ file: UInt32, _ target: UInt32, _ type: RemapType, _ context: DumpContext) throws {
        var entry = RemapFilePathEntry()
        (entry.origID, entry.remapID, entry.remapType) = (file, target, type)
        try context.images.append("remap-fpath.img", entry)
    }

    // MARK: Restore

    /// remap-fpath.img, read at its first use.
    final class Loaded: DumpState {
        var byFile: [UInt32: Target] = [:]
        var isRead = false
        init() {}
    }

    static func load(_ context: RestoreContext) throws -> Loaded {
        let loaded = context.state(of: Loaded.self)
        if loaded.isRead { return loaded }
        loaded.isRead = true
        for entry in try context.images.all("remap-fpath.img", RemapFilePathEntry.self, optional: true) {
            // Images of old had no type: the highest bit told ghosts from links.
            let target: Target = switch entry.hasRemapType ? entry.remapType : entry.remapID >> 31 == 1 ? RemapType.ghost : .linked {
            case .ghost: .ghost(entry.hasRemapType ? entry.remapID : entry.remapID & 0x7fff_ffff)
            case .linked: .linked(entry.remapID)
            case .procfs: .process(Int32(truncatingIfNeeded: entry.remapID))
            }
            loaded.byFile[entry.origID] = target
        }
        return loaded
    }
}
