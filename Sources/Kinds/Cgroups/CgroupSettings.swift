/// What dump and restore were asked to do about cgroups.
package struct CgroupSettings: Sendable, Equatable {
    /// --manage-cgroups, as Documentation/criu.txt tells of the modes.
    package enum Mode: String, Sendable {
        /// As if there were none.
        case ignore
        /// No properties; the groups must exist.
        case none
        /// Properties always; the groups must exist.
        case props
        /// Missing groups are made, with their properties; groups that exist stay as they are.
        case soft
        /// Missing groups are made; properties always.
        case full
        /// As `full`, but a group that exists is an error.
        case strict
    }
    package var mode = Mode.soft
    /// --cgroup-root: by controller, "" for all that have none of their own. A dump begins there; a restore puts the groups there.
    package var roots: [String: String] = [:]
    /// --cgroup-yard: a directory that holds one mount a hierarchy.
    package var yard: String?
    /// --cgroup-dump-controller: only these; all when empty.
    package var onlyControllers: [String] = []
    /// --cgroup-props, --cgroup-props-file: what a dump saves beside, or in place of, the files that we know.
    package var rules: [CgroupPropertyRule] = []
    package init() {}

    package var ignored: Bool { mode == .ignore }

    /// The root given for a hierarchy, by its name in /proc/PID/cgroup or by one of its controllers; not the default one.
    func ownRoot(of hierarchy: String) -> String? {
        if let exact = roots[hierarchy], !hierarchy.isEmpty { return exact }
        for controller in hierarchy.split(separator: ",") { if let found = roots[String(controller)] { return found } }
        return nil
    }
}
