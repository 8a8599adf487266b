import Glibc
package import ImageMessages
package import Linux

/// The cgroup sets of a tree: which groups, one a hierarchy, each thread is in (format README 16.1). Set 1 is our own.
package final class CgroupSets {
    private let settings: CgroupSettings
    package var ignored: Bool { settings.ignored }
    private var sets: [[Membership]: UInt32] = [:]
    private var ordered: [[Membership]] = []
    private let own: [Membership]

    /// One line of /proc/PID/cgroup: the hierarchy's controllers (empty for version 2) and the path of the group.
    package struct Membership: Hashable, Sendable {
        package let name: String, path: String
        /// How much of the path is above the root of the task's cgroup namespace: it does not see that.
        package var hidden: UInt32 = 0
    }

    package init(_ settings: CgroupSettings) {
        self.settings = settings
        own = (try? Files.readAtOnce("/proc/self/cgroup")).map(Self.parse) ?? []
        if !own.isEmpty { sets[own] = 1 }
    }

    package static func parse(_ text: String) -> [Membership] {
        text.split(separator: "\n").compactMap { line in
            let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            return parts.count == 3 ? Membership(name: String(parts[1]), path: String(parts[2])) : nil
        }.sorted { $0.name < $1.name }
    }
    private static func parse(_ text: [UInt8]) -> [Membership] { parse(String(decoding: text, as: UTF8.self)) }

    /// The id of the thread's set; nil when cgroups are ignored.
    package func id(of thread: ThreadID, in process: ThreadID) throws(SyscallError) -> UInt32? {
        if ignored { return nil }
        let path = "/proc/\(process)/task/\(thread)/cgroup"
        let text = try Files.readAtOnce(path)
        if try namespaced(process) { return id(of: try CgroupNamespace.withHiddenParts(Self.parse(text), of: process, seenAs: path)) }
        if let id = texts[text] { return id }
        let id = id(of: Self.parse(text))
        texts[text] = id
        return id
    }

    private func id(of memberships: [Membership]) -> UInt32 {
        if let id = sets[memberships] { return id }
        let id = UInt32(sets.count + 1)
        sets[memberships] = id
        ordered.append(memberships)
        return id
    }

    /// Sets of tasks in our own cgroup namespace, by the text of their /proc/PID/cgroup: most threads have the same.
    private var texts: [[UInt8]: UInt32] = [:]

    private var namespaces: [ThreadID: Bool] = [:]
    private func namespaced(_ process: ThreadID) throws(SyscallError) -> Bool {
        if let known = namespaces[process] { return known }
        let other = try CgroupNamespace.isOther(process)
        namespaces[process] = other
        return other
    }

    /// cgroup.img; nil when every task is in our own set, as CRIU does it.
    package func image() throws -> CgroupEntry? {
        if ordered.isEmpty { return nil }
        var image = CgroupEntry()
        var directories: [String: Set<String>] = [:]
        for memberships in ordered {
            var set = CgSetEntry()
            set.id = sets[memberships]!
            for membership in memberships where isWanted(membership.name) {
                var member = CgMemberEntry()
                (member.name, member.path) = (membership.name, membership.path)
                if membership.hidden > 0 { member.cgnsPrefix = membership.hidden }
                set.ctls.append(member)
                directories[membership.name, default: []].insert(membership.path)
            }
            image.sets.append(set)
        }
        let hierarchies = CgroupHierarchies(yard: settings.yard)
        for (name, paths) in directories.sorted(by: { $0.key < $1.key }) {
            var controller = CgControllerEntry()
            controller.cnames = name.isEmpty ? [""] : name.split(separator: ",").map(String.init)
            controller.isThreaded = !name.isEmpty
            for path in Self.tops(paths, root: settings.ownRoot(of: name)) {
                controller.dirs.append(try CheckpointError.about("dump", .object("cgroup \(CgroupHierarchies.words(name)):\(path)")) {
                    try directory(path, of: name, hierarchies, isThreaded: &controller.isThreaded)
                })
            }
            image.controllers.append(controller)
        }
        return image
    }

    private func isWanted(_ hierarchy: String) -> Bool {
        settings.onlyControllers.isEmpty || settings.onlyControllers.contains { $0 == hierarchy || hierarchy.split(separator: ",").contains($0[...]) }
    }

    /// The groups to begin at: those of tasks that lie below no other one, or the root that was asked for.
    static func tops(_ paths: Set<String>, root: String?) -> [String] {
        var tops = [String]()
        for path in paths.map({ path in root.flatMap { isBelow(path, $0) ? $0 : nil } ?? path }).sorted(by: { ($0.utf8.count, $0) < ($1.utf8.count, $1) })
        where !tops.contains(where: { isBelow(path, $0) }) { tops.append(path) }
        return tops.sorted()
    }
    static func isBelow(_ path: String, _ top: String) -> Bool { top == "/" || path == top || path.hasPrefix(top + "/") }

    /// The root of a hierarchy, and the group that stasis is in itself, are the host's: what else is in them is not saved.
    private func directory(_ path: String, of name: String, _ hierarchies: CgroupHierarchies, isThreaded: inout Bool) throws -> CgroupDirEntry {
        let place = try hierarchies.root(of: name) + (path == "/" ? "" : path)
        if path == "/" || own.contains(Membership(name: name, path: path)) {
            var entry = CgroupDirEntry()
            entry.dirName = String(path.dropFirst())
            entry.dirPerms = Self.permissions(try Files.status(place))
            return entry
        }
        return try tree(place, name: String(path.dropFirst()), CgroupProperties.names(ofHierarchy: name, settings.rules), &isThreaded)
    }

    private func tree(_ place: String, name: String, _ properties: [String], _ isThreaded: inout Bool) throws -> CgroupDirEntry {
        var entry = CgroupDirEntry()
        entry.dirName = name
        entry.dirPerms = Self.permissions(try Files.status(place))
        let names = Set(try Files.names(in: place))
        if names.contains("cgroup.type"), (try? Files.text(place + "/cgroup.type"))?.hasPrefix("threaded") == true { isThreaded = true }
        if settings.mode != .none {
            for property in properties where names.contains(property) {
                var saved = CgroupPropEntry()
                saved.name = property
                if !CgroupProperties.members.contains(property) {
                    // Some can't be read just now, such as those of a controller that is off here.
                    guard let text = try? Files.text("\(place)/\(property)") else { continue }
                    saved.value = CgroupProperties.trimmed(text)
                } else { saved.value = "" }
                saved.perms = Self.permissions(try Files.status("\(place)/\(property)"))
                entry.properties.append(saved)
            }
        }
        for child in names.sorted() where (try? Files.status("\(place)/\(child)", followLinks: false))?.type == S_IFDIR {
            entry.children.append(try tree("\(place)/\(child)", name: child, properties, &isThreaded))
        }
        return entry
    }

    private static func permissions(_ status: FileStatus) -> CgroupPerms {
        var entry = CgroupPerms()
        (entry.mode, entry.uid, entry.gid) = (status.mode, status.uid, status.gid)
        return entry
    }
}
