import Glibc
package import ImageMessages
package import Linux

/// Makes the groups of a tree, puts its tasks into them, and gives them their properties:
///
/// 1. `init`: directories that are missing, owners and modes (open files of the tree may be among them), and what a task can't enter
///    without (cpuset.cpus);
/// 2. `move`, as soon as a process exists: what memory it gets from then on is charged to its own group;
/// 3. `setProperties`, when everything stands: no limit hits the restore itself.
package final class CgroupRestore {
    private let settings: CgroupSettings
    private let hierarchies: CgroupHierarchies
    private let own: UInt32
    /// By set: hierarchy and path, where they are now.
    private var sets: [UInt32: [CgroupSets.Membership]] = [:]
    /// By set: the groups that are the roots of its tasks' cgroup namespace (cgroup_namespaces(7)).
    private var namespaceRoots: [UInt32: [CgroupSets.Membership]] = [:]
    private struct Directory { let hierarchy: String, path: String, entry: CgroupDirEntry, isTop: Bool; var made = false }
    private var directories: [Directory] = []

    package init(image: CgroupEntry?, own: UInt32, _ settings: CgroupSettings, _ context: RestoreContext) throws {
        (self.settings, self.own) = (settings, own)
        hierarchies = CgroupHierarchies(yard: settings.yard)
        guard let image, !settings.ignored else { return }
        sets[own] = CgroupSets.parse(try Files.text("/proc/self/cgroup"))
        var bases: [String: String] = [:]
        for controller in image.controllers { bases[Self.name(controller)] = Self.common(controller.dirs.map { "/" + $0.dirName }) }
        for set in image.sets {
            sets[set.id] = try set.ctls.map { member in
                guard member.path.hasPrefix("/"), !member.path.split(separator: "/").contains("..") else {
                    throw CheckpointError("restore", .image("cgroup.img"), "'\(member.path)' is no path of a cgroup")
                }
                return .init(name: member.name, path: moved(member.path, of: member.name, base: bases[member.name]))
            }
            namespaceRoots[set.id] = set.ctls.map { member in
                let root = String(decoding: Array(member.path.utf8.prefix(Int(member.cgnsPrefix))), as: UTF8.self)
                return .init(name: member.name, path: root.isEmpty ? "/" : moved(root, of: member.name, base: bases[member.name]))
            }
        }
        let used = image.sets.flatMap(\.ctls)
        for controller in image.controllers {
            let name = Self.name(controller)
            let members = used.filter { $0.name == name && $0.path != "/" }.map(\.path)
            for top in controller.dirs { try collect(top, "/" + top.dirName, name, base: bases[name], members: members, isTop: true) }
        }
        try make(context)
    }

    private static func name(_ controller: CgControllerEntry) -> String { controller.cnames.joined(separator: ",") }

    /// The path that all of these begin with.
    static func common(_ paths: [String]) -> String {
        guard var prefix = paths.first?.split(separator: "/") else { return "/" }
        for path in paths.dropFirst() {
            let parts = path.split(separator: "/")
            prefix = Array(zip(prefix, parts).prefix { $0 == $1 }.map(\.0))
        }
        return "/" + prefix.joined(separator: "/")
    }

    /// Where --cgroup-root puts a group: the root takes the place of what all of the hierarchy's groups lie in.
    private func moved(_ path: String, of hierarchy: String, base: String?) -> String {
        guard let root = settings.ownRoot(of: hierarchy) ?? settings.roots[""] else { return path }
        let rest = base.map { CgroupSets.isBelow(path, $0) ? ($0 == "/" ? path : String(path.dropFirst($0.utf8.count))) : path } ?? path
        let joined = (root == "/" ? "" : root) + (rest == "/" ? "" : rest)
        return joined.isEmpty ? "/" : joined
    }

    private func collect(_ entry: CgroupDirEntry, _ path: String, _ hierarchy: String, base: String?, members: [String], isTop: Bool) throws {
        guard path.utf8.count < 4096, !path.split(separator: "/").contains(".."), isTop || (!entry.dirName.isEmpty && !entry.dirName.contains("/")) else {
            throw CheckpointError("restore", .image("cgroup.img"), "'\(path)' is no path of a cgroup")
        }
        directories.append(Directory(hierarchy: hierarchy, path: moved(path, of: hierarchy, base: base), entry: entry, isTop: isTop))
        for property in entry.properties where property.name.contains("/") || property.name.isEmpty {
            throw CheckpointError("restore", .image("cgroup.img"), "'\(property.name)' is no property of a cgroup")
        }
        for child in entry.children {
            let below = (path == "/" ? "" : path) + "/" + child.dirName
            // Of a dump of the whole hierarchy: only what is the tree's.
            if path == "/", !members.contains(where: { CgroupSets.isBelow($0, below) || CgroupSets.isBelow(below, $0) }) { continue }
            try collect(child, below, hierarchy, base: base, members: members, isTop: false)
        }
    }

    private func place(_ hierarchy: String, _ path: String) throws -> String { try hierarchies.root(of: hierarchy) + (path == "/" ? "" : path) }
    private static func subject(_ hierarchy: String, _ path: String) -> CheckpointError.Subject { .object("cgroup \(CgroupHierarchies.words(hierarchy)):\(path)") }

    // MARK: directories

    private func make(_ context: RestoreContext) throws {
        let here = Set(sets[own] ?? [])
        for (index, directory) in directories.enumerated() where directory.path != "/" {
            let subject = Self.subject(directory.hierarchy, directory.path)
            try context.verify("\(subject)", "it is there, or can be made") {
                try CheckpointError.about("restore", subject) { try make(index, here, subject, context) }
            }
        }
    }

    private func make(_ index: Int, _ here: Set<CgroupSets.Membership>, _ subject: CheckpointError.Subject, _ context: RestoreContext) throws {
        let directory = directories[index]
        let place = try place(directory.hierarchy, directory.path)
        if (try? Files.status(place)) != nil {
            if settings.mode == .strict && !here.contains(.init(name: directory.hierarchy, path: directory.path)) {
                throw CheckpointError("restore", subject, "it exists already", remedy: "remove it, or restore with --manage-cgroups=full", errno: Errno(EEXIST))
            }
        } else if settings.mode == .none || settings.mode == .props {
            throw CheckpointError("restore", subject, "it does not exist here", remedy: "make it, or restore with --manage-cgroups=soft", errno: Errno(ENOENT))
        } else if !context.checksOnly {
            try makeDirectory(directory.hierarchy, directory.path, context)
            directories[index].made = true
        }
        guard isOurs(directories[index]), !context.checksOnly else { return }
        try write(directories[index], early: true)
        for property in directory.entry.properties where property.hasPerms { try permit(property.perms, "\(place)/\(property.name)") }
        if directory.entry.hasDirPerms { try permit(directory.entry.dirPerms, place) }
    }

    /// With the directories above it that are missing too.
    private func makeDirectory(_ hierarchy: String, _ path: String, _ context: RestoreContext) throws {
        var above = ""
        for part in path.split(separator: "/") {
            let parent = try place(hierarchy, above.isEmpty ? "/" : above)
            above += "/" + part
            let place = try place(hierarchy, above)
            if (try? Files.status(place)) != nil { continue }
            try Files.makeDirectory(place)
            // The hierarchy's mount may be one that only `hierarchies` holds.
            context.undo.append { [self] in _ = hierarchies; try? Files.unlink(place, flags: AT_REMOVEDIR) }
            // A cpuset of version 1 begins without processors and memory: nothing can enter it (cpuset(7)).
            for file in ["cpuset.cpus", "cpuset.mems"] where hierarchy.split(separator: ",").contains("cpuset") {
                if let text = try? Files.text("\(place)/\(file)"), CgroupProperties.trimmed(text).isEmpty {
                    try Files.write(CgroupProperties.trimmed(try Files.text("\(parent)/\(file)")), to: "\(place)/\(file)")
                }
            }
        }
    }

    // MARK: properties

    /// Deepest last: a child's limits may not exceed its parent's.
    package func setProperties() throws {
        for directory in directories {
            guard isOurs(directory) else { continue }
            try CheckpointError.about("restore", Self.subject(directory.hierarchy, directory.path)) { try write(directory, early: false) }
        }
    }

    /// Whether its properties are to be set. The root of a hierarchy is not the tree's to change.
    private func isOurs(_ directory: Directory) -> Bool {
        if directory.path == "/" || directory.entry.dirName.isEmpty { return false }
        return directory.made || settings.mode == .full || settings.mode == .strict || settings.mode == .props
    }

    private func write(_ directory: Directory, early: Bool) throws {
        let place = try place(directory.hierarchy, directory.path)
        for property in directory.entry.properties {
            if CgroupProperties.members.contains(property.name) || early != CgroupProperties.isEarly(property.name) { continue }
            let now = CgroupProperties.trimmed((try? Files.text("\(place)/\(property.name)")) ?? "")
            for (name, text) in CgroupProperties.writes(property.name, value: property.value, now: now) {
                do throws(SyscallError) { try Files.write(text, to: "\(place)/\(name)") } catch {
                    throw CheckpointError(
                        "restore", Self.subject(directory.hierarchy, directory.path), "\(name) can't be set to '\(text)': \(error.errno)",
                        remedy: "restore with --manage-cgroups=none, and set it yourself", errno: error.errno)
                }
            }
        }
    }

    /// Owner before mode: chown(2) clears set-user-ID.
    private func permit(_ wanted: CgroupPerms, _ path: String) throws {
        guard let now = try? Files.status(path) else { return }
        if now.uid != wanted.uid || now.gid != wanted.gid { try Files.setOwner(path, uid: wanted.uid, gid: wanted.gid) }
        if now.mode & 0o7777 != wanted.mode & 0o7777 { try Files.setMode(path, wanted.mode & 0o7777) }
    }

    // MARK: tasks

    /// Puts a task into the groups that are to be the roots of its cgroup namespace: those it is in when it makes one.
    package func moveToNamespaceRoot(_ task: ThreadID, of set: UInt32) throws {
        for member in namespaceRoots[set] ?? [] {
            try CheckpointError.about("restore", Self.subject(member.name, member.path)) {
                try Files.write("\(task)", to: try place(member.name, member.path) + "/cgroup.procs")
            }
        }
    }

    /// Puts a task that is in the groups of set `from` into those of `set`; nil: in some others.
    package func move(_ task: ThreadID, to set: UInt32, from: UInt32?, isThread: Bool) throws {
        if settings.ignored || set == from || set == 0 { return }
        guard let members = sets[set] else {
            if set == own { return }
            throw CheckpointError("restore", .image("cgroup.img"), "it has no set \(set)")
        }
        let there = Set(from.flatMap { sets[$0] } ?? [])
        for member in members where !there.contains(member) {
            try CheckpointError.about("restore", Self.subject(member.name, member.path)) {
                let place = try place(member.name, member.path)
                guard (try? Files.status(place)) != nil else {
                    throw CheckpointError(
                        "restore", Self.subject(member.name, member.path), "it does not exist here", remedy: "make it, or restore with --manage-cgroups=ignore")
                }
                try Files.write("\(task)", to: place + (isThread ? (member.name.isEmpty ? "/cgroup.threads" : "/tasks") : "/cgroup.procs"))
            }
        }
    }
    /// The set that we are in, and every task that nobody has moved.
    package var start: UInt32 { own }
}
