/// Which files of a cgroup directory are saved: what an administrator sets, by controller (Documentation/admin-guide/cgroup-v1, cgroup-v2.rst).
/// In the order they are written: limits before those that depend on them.
enum CgroupProperties {
    private static let versionOne: [String: [String]] = [
        "cpu": ["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.rt_period_us", "cpu.rt_runtime_us"],
        "memory": [
            "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness",
            "memory.move_charge_at_immigrate", "memory.oom_control", "memory.use_hierarchy", "memory.kmem.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes",
        ],
        "cpuset": [
            "cpuset.cpus", "cpuset.mems", "cpuset.memory_migrate", "cpuset.cpu_exclusive", "cpuset.mem_exclusive", "cpuset.mem_hardwall",
            "cpuset.memory_spread_page", "cpuset.memory_spread_slab", "cpuset.sched_load_balance", "cpuset.sched_relax_domain_level",
        ],
        "blkio": ["blkio.weight"],
        "net_cls": ["net_cls.classid"],
        "net_prio": ["net_prio.ifpriomap"],
        "pids": ["pids.max"],
        "devices": ["devices.list"],
    ]
    private static let versionTwo = [
        "cgroup.subtree_control", "cgroup.max.descendants", "cgroup.max.depth", "cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle",
        "cpuset.cpus", "cpuset.mems", "cpuset.cpus.partition", "memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.high",
        "memory.swap.max", "memory.zswap.max", "memory.oom.group", "io.weight", "io.max", "pids.max",
    ]
    private static let everywhere = ["cgroup.clone_children", "notify_on_release", "cgroup.procs", "tasks", "cgroup.threads"]
    /// Saved with an empty value: only who may write there counts.
    static let members: Set<String> = ["cgroup.procs", "tasks", "cgroup.threads"]
    /// What must be right before a task can enter, or before there are groups below (device_cgroup.c refuses to deny all then).
    static func isEarly(_ name: String) -> Bool { name == "devices.list" || name == "cpuset.cpus" || name == "cpuset.mems" || name == "cgroup.subtree_control" || name == "cgroup.clone_children" }

    /// - Parameter rules: of --cgroup-props. In version 2, a controller's files are those that begin with its name.
    static func names(ofHierarchy name: String, _ rules: [CgroupPropertyRule] = []) -> [String] {
        let controllers = name.split(separator: ",").map(String.init)
        var found = name.isEmpty ? versionTwo : controllers.flatMap { versionOne[$0] ?? [] }
        for rule in rules where name.isEmpty || controllers.contains(rule.controller) {
            if rule.replaces { found.removeAll { name.isEmpty ? $0.hasPrefix(rule.controller + ".") : versionOne[rule.controller]?.contains($0) == true } }
            found += rule.properties.filter { !found.contains($0) && !everywhere.contains($0) }
        }
        return found + everywhere
    }

    /// What to write, in pieces, so that the file reads `value` where it reads `now`. Some files are read in other words than are written.
    static func writes(_ property: String, value: String, now: String) -> [(file: String, text: String)] {
        if members.contains(property) || value == now { return [] }
        func lines(_ text: String) -> [String] { text.split(separator: "\n").map(String.init) }
        switch property {
        case "devices.list":
            if Set(lines(value)) == Set(lines(now)) { return [] }
            if value == "a *:* rwm" { return [("devices.allow", "a")] }
            return [("devices.deny", "a")] + lines(value).map { ("devices.allow", $0) }
        case "memory.oom_control":
            let key = "oom_kill_disable "
            let wanted = lines(value).first { $0.hasPrefix(key) }
            return wanted == lines(now).first { $0.hasPrefix(key) } ? [] : [(property, String((wanted ?? value).split(separator: " ").last ?? "0"))]
        case "cgroup.subtree_control":
            let has = Set(now.split(separator: " ")), wants = Set(value.split(separator: " "))
            let change = wants.subtracting(has).sorted().map { "+\($0)" } + has.subtracting(wants).sorted().map { "-\($0)" }
            return change.isEmpty ? [] : [(property, change.joined(separator: " "))]
        case "net_prio.ifpriomap", "io.max":
            let has = Set(lines(now))
            return lines(value).filter { !has.contains($0) }.map { (property, $0) }
        default: return value.isEmpty ? [] : [(property, value)]
        }
    }

    /// A file's text as the images have it: without the last line feed.
    static func trimmed(_ text: String) -> String { text.hasSuffix("\n") ? String(text.dropLast()) : text }
}
