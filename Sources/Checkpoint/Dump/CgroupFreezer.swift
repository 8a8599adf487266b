import Glibc
import Kinds
import Linux

/// A freezer cgroup given by --freeze-cgroup, of version 2 (cgroup.freeze) or 1 (freezer.state).
struct CgroupFreezer {
    private let path: String, control: String, state: String
    /// Version 1 holds its tasks where no ptrace stop reaches them: they have to be thawed to get there.
    let versionTwo: Bool
    /// By somebody else: it is thawed while the tree is saved, for a frozen task can do nothing for us, and frozen again before the tree is let go.
    private let wasFrozen: Bool

    init(_ path: String) throws {
        self.path = path
        if (try? Files.status(path + "/cgroup.freeze")) != nil {
            (versionTwo, control, state) = (true, path + "/cgroup.freeze", path + "/cgroup.events")
            wasFrozen = (try? Files.text(control)).map { $0.hasPrefix("1") } ?? false
        } else if (try? Files.status(path + "/freezer.state")) != nil {
            (versionTwo, control, state) = (false, path + "/freezer.state", path + "/freezer.state")
            wasFrozen = (try? Files.text(control)).map { $0.hasPrefix("FROZEN") } ?? false
        } else {
            throw CheckpointError("freeze", .file(path), "it is not a freezer cgroup", remedy: "give the directory that holds cgroup.freeze or freezer.state")
        }
    }

    func freeze(until deadline: UInt64) throws {
        try CheckpointError.about("freeze", .file(control)) { try Files.write(versionTwo ? "1" : "FROZEN", to: control) }
        while !isFrozen {
            if Clock.monotonic() > deadline || Foreground.isGone {
                restore()
                throw CheckpointError("freeze", .file(control), "its tasks did not stop in time", remedy: "give them more with --timeout SECONDS")
            }
            usleep(1000)
        }
    }
    private var isFrozen: Bool {
        guard let text = try? Files.text(state) else { return false }
        return versionTwo ? text.contains("frozen 1") : text.hasPrefix("FROZEN")
    }
    /// The threads in it and in the groups below.
    var tasks: [ThreadID] {
        var found = [ThreadID](), groups = [path]
        while let group = groups.popLast() {
            found += ((try? Files.text(group + "/tasks")) ?? "").split(separator: "\n").compactMap { Int32($0) }.map { ThreadID($0) }
            groups += ((try? Files.names(in: group)) ?? []).map { group + "/" + $0 }.filter { (try? Files.status($0 + "/tasks")) != nil }
        }
        return found
    }
    /// Lets its tasks get to where they were told to stop.
    func letRun() { set(frozen: false) }
    /// Back to what it was before.
    func restore() { set(frozen: wasFrozen) }
    private func set(frozen: Bool) { try? Files.write(versionTwo ? (frozen ? "1" : "0") : (frozen ? "FROZEN" : "THAWED"), to: control) }
}
