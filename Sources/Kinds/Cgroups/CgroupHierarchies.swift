import Glibc
import Linux

/// Where the hierarchies of cgroups can be reached: in the yard (--cgroup-yard), at a mount of ours, or at one that only we see.
final class CgroupHierarchies {
    private let yard: String?
    private lazy var mounts: [Mount] = Self.mounted((try? Files.text("/proc/self/mountinfo")) ?? "")
    private lazy var active = Set(CgroupSets.parse((try? Files.text("/proc/self/cgroup")) ?? "").map(\.name))
    private var found: [String: String] = [:]
    private var detached: [DetachedMount] = []

    struct Mount: Equatable { let controllers: Set<String>, isVersionTwo: Bool, path: String }

    init(yard: String?) { self.yard = yard }

    /// Mounts of whole hierarchies in mountinfo (proc(5)): fields 4 and 5 (what of it, where); after " - " type, source, options.
    static func mounted(_ mountinfo: String) -> [Mount] {
        mountinfo.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ").map(String.init)
            guard let dash = words.firstIndex(of: "-"), dash + 3 < words.count, words.count > 5, words[3] == "/" else { return nil }
            let path = words[4].replacing("\\040", with: " ")
            switch words[dash + 1] {
            case "cgroup2": return Mount(controllers: [], isVersionTwo: true, path: path)
            case "cgroup": return Mount(controllers: Set(words[dash + 3].split(separator: ",").map(String.init)), isVersionTwo: false, path: path)
            default: return nil
            }
        }
    }

    /// The path of the root of a hierarchy by its name in /proc/PID/cgroup: controllers, "name=...", or "" for version 2.
    func root(of name: String) throws -> String {
        if let known = found[name] { return known }
        let path = try find(name)
        found[name] = path
        return path
    }

    private func find(_ name: String) throws -> String {
        if let yard {
            let directory = name.isEmpty ? "unified" : name.hasPrefix("name=") ? String(name.dropFirst(5)) : name
            guard (try? Files.status("\(yard)/\(directory)/cgroup.procs")) != nil else {
                throw CheckpointError("use", .object("cgroup hierarchy \(Self.words(name))"), "it is not mounted at \(yard)/\(directory)", remedy: "mount it there, or leave --cgroup-yard out")
            }
            return "\(yard)/\(directory)"
        }
        let wanted = Set(name.split(separator: ",").map(String.init))
        for mount in mounts where mount.isVersionTwo == name.isEmpty && wanted.isSubset(of: mount.controllers) {
            // What is mounted may be hidden under another mount.
            if (try? Files.status(mount.path + "/cgroup.procs")) != nil { return mount.path }
        }
        return try CheckpointError.about("use", .object("cgroup hierarchy \(Self.words(name))"), remedy: "mount it, or use --manage-cgroups=ignore") {
            let mount: DetachedMount
            if name.isEmpty {
                mount = try DetachedMount("cgroup2", [])
            } else if name.hasPrefix("name=") {
                mount = try DetachedMount("cgroup", [.flag("none"), .string("name", String(name.dropFirst(5)))])
            } else {
                // Mounting controllers that no hierarchy of version 1 has would take them from where they are.
                guard active.contains(name) else {
                    throw CheckpointError("use", .object("cgroup hierarchy \(name)"), "there is none here", remedy: "use --manage-cgroups=ignore")
                }
                mount = try DetachedMount("cgroup", wanted.sorted().map { .flag($0) })
            }
            detached.append(mount)
            return mount.path
        }
    }

    static func words(_ name: String) -> String { name.isEmpty ? "of version 2" : name }
}
