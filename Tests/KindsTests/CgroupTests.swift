import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("cgroups") struct CgroupTests {
    @Test("memberships are read with their hierarchy's name and in its order")
    func memberships() {
        let parsed = CgroupSets.parse("9:name=systemd:/init\n2:cpu,cpuacct:/a:b\n0::/\nrubbish\n")
        #expect(parsed.map(\.name) == ["", "cpu,cpuacct", "name=systemd"])
        #expect(parsed.map(\.path) == ["/", "/a:b", "/init"])
    }

    @Test("a dump begins at the groups that lie below no other one, or at the root asked for")
    func tops() {
        #expect(CgroupSets.tops(["/a/b", "/a", "/ab", "/c/d"], root: nil) == ["/a", "/ab", "/c/d"])
        #expect(CgroupSets.tops(["/prefix/old", "/else"], root: "/prefix") == ["/else", "/prefix"])
        #expect(CgroupSets.tops(["/", "/a"], root: nil) == ["/"])
    }

    @Test("the groups of a hierarchy have the longest path in common")
    func common() {
        #expect(CgroupRestore.common(["/a/b", "/a/c"]) == "/a")
        #expect(CgroupRestore.common(["/a/b"]) == "/a/b")
        #expect(CgroupRestore.common(["/ab", "/a"]) == "/")
        #expect(CgroupRestore.common([]) == "/")
    }

    @Test("only mounts of whole hierarchies count")
    func mounts() {
        let text = """
            32 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
            41 31 0:38 / /mnt/two\\040words rw,relatime shared:4 - cgroup2 cgroup2 rw
            42 31 0:39 /part /mnt/part rw - cgroup cgroup rw,pids
            43 31 0:40 / /proc rw - proc proc rw
            """
        let mounts = CgroupHierarchies.mounted(text)
        #expect(mounts.map(\.path) == ["/sys/fs/cgroup/cpu", "/mnt/two words"])
        #expect(mounts.map(\.isVersionTwo) == [false, true])
        #expect(mounts[0].controllers.isSuperset(of: ["cpu", "cpuacct"]))
    }

    @Test("properties that are read in other words than are written")
    func writes() {
        func pieces(_ name: String, _ value: String, _ now: String) -> [String] {
            CgroupProperties.writes(name, value: value, now: now).map { "\($0.file) \($0.text)" }
        }
        #expect(pieces("pids.max", "20", "20") == [])
        #expect(pieces("pids.max", "20", "max") == ["pids.max 20"])
        #expect(pieces("devices.list", "c 1:3 rwm\nc 1:5 r", "a *:* rwm") == ["devices.deny a", "devices.allow c 1:3 rwm", "devices.allow c 1:5 r"])
        #expect(pieces("devices.list", "c 1:3 rwm\nc 1:5 r", "c 1:5 r\nc 1:3 rwm") == [])
        #expect(pieces("cgroup.subtree_control", "memory pids", "cpu pids") == ["cgroup.subtree_control +memory -cpu"])
        #expect(pieces("memory.oom_control", "oom_kill_disable 1\nunder_oom 0", "oom_kill_disable 0\nunder_oom 1") == ["memory.oom_control 1"])
        #expect(pieces("memory.oom_control", "oom_kill_disable 0\nunder_oom 1", "oom_kill_disable 0\nunder_oom 0") == [])
        #expect(pieces("tasks", "", "1\n2") == [])
    }

    @Test("--cgroup-props adds to the properties of a controller, or takes their place")
    func rules() throws {
        let text = """
            "pids":
             - "strategy": "merge"
             - "properties": ["pids.peak", "pids.max"]
             "cpu":
             - "strategy": "replace"
             - "properties": ["cpu.idle"]
            "hugetlb":
             - "properties": []
            """
        let rules = try CgroupPropertyRule.parse(text)
        #expect(rules.map(\.controller) == ["pids", "cpu", "hugetlb"] && rules.map(\.replaces) == [false, true, false])
        let one = CgroupProperties.names(ofHierarchy: "cpu,cpuacct", rules), pids = CgroupProperties.names(ofHierarchy: "pids", rules)
        #expect(one.first == "cpu.idle" && !one.contains("cpu.shares") && pids.prefix(2) == ["pids.max", "pids.peak"])
        let two = CgroupProperties.names(ofHierarchy: "", rules)
        #expect(two.contains("pids.peak") && two.contains("cpu.idle") && !two.contains("cpu.weight") && two.contains("cpuset.cpus") && two.contains("memory.max"))
        #expect(CgroupProperties.names(ofHierarchy: "name=systemd", rules) == CgroupProperties.names(ofHierarchy: "name=systemd"))
    }

    @Test("what is wrong with --cgroup-props is told with its line", arguments: [
        ("cpu:", "line 1: 'c' outside of quotes"), ("\"cpu", "line 1: a quote is not closed"), ("\"cpu\"\n\"a\":", "line 2: ':' is expected"),
        ("\"cpu\":\n - \"strategy\": \"mend\"", "line 2: there is no strategy \"mend\": merge or replace"), ("\"cpu\":\n - \"properties\": [\"../x\"]", "line 2: \"../x\" is no file of a cgroup"),
        ("\"cpu\":\n - \"properties\": [\"x\"", "line 2: it ends where ']' is expected"), ("\"a\":\n\"a\":", "line 2: \"a\" is there twice"), ("\"a\":\n - \"b\": []", "line 2: \"b\" is neither \"strategy\" nor \"properties\""),
    ])
    func wrongRules(text: String, problem: String) {
        do throws(CgroupPropertyRule.Problem) {
            _ = try CgroupPropertyRule.parse(text)
            Issue.record("taken")
        } catch { #expect("\(error)" == problem) }
    }

    /// A named hierarchy that nothing mounts: groups, modes and properties come back; what the restore made goes when it fails.
    @Test("directories of a hierarchy that is mounted nowhere")
    func directories() throws {
        let name = "name=stasis\(getpid())"
        let mount = try DetachedMount("cgroup", [.flag("none"), .string("name", String(name.dropFirst(5)))])
        defer { withExtendedLifetime(mount) {} }
        let root = mount.path
        var image = CgroupEntry(), set = CgSetEntry(), member = CgMemberEntry(), controller = CgControllerEntry()
        (member.name, member.path, set.id) = (name, "/top/below", 7)
        set.ctls = [member]
        image.sets = [set]
        var top = CgroupDirEntry(), below = CgroupDirEntry(), property = CgroupPropEntry()
        (property.name, property.value) = ("notify_on_release", "1")
        (property.perms.mode, property.perms.uid, property.perms.gid) = (0o100640, 11, 12)
        (top.dirName, below.dirName) = ("top", "below")
        (top.dirPerms.mode, top.dirPerms.uid, top.dirPerms.gid) = (0o40711, 1, 2)
        (below.dirPerms.mode, below.dirPerms.uid, below.dirPerms.gid) = (0o40755, 0, 0)
        below.properties = [property]
        top.children = [below]
        controller.cnames = [name]
        controller.dirs = [top]
        image.controllers = [controller]
        let context = try DumpAndRestore().emptyRestore()
        var settings = CgroupSettings()
        settings.mode = .props
        #expect(throws: CheckpointError.self) { try CgroupRestore(image: image, own: 1, settings, context) }
        settings.mode = .strict
        try CgroupRestore(image: image, own: 1, settings, context).setProperties()
        let made = try Files.status(root + "/top"), file = try Files.status(root + "/top/below/notify_on_release")
        #expect([made.mode, made.uid, made.gid] == [0o40711, 1, 2])
        #expect([file.mode, file.uid, file.gid] == [0o100640, 11, 12])
        #expect(try Files.text(root + "/top/below/notify_on_release") == "1\n")
        #expect(throws: CheckpointError.self) { try CgroupRestore(image: image, own: 1, settings, context) }
        settings.mode = .soft
        settings.roots = ["": "/other"]
        _ = try CgroupRestore(image: image, own: 1, settings, context)
        #expect((try? Files.status(root + "/other/below")) != nil)
        for undo in context.undo.reversed() { undo() }
        #expect(try Files.names(in: root).filter { $0 == "top" || $0 == "other" } == [])
    }
}

extension DumpAndRestore {
    /// A restore of an image directory without files.
    func emptyRestore() throws -> RestoreContext {
        try dump.images.create("files.img")
        return try restore()
    }
}
