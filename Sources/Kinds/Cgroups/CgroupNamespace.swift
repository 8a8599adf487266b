import CLinux
import Glibc
import Linux

/// Cgroup namespaces (cgroup_namespaces(7)): a task sees the paths of groups from the one it was in when its namespace was made.
enum CgroupNamespace {
    /// Whether a process lives in another one than we do.
    static func isOther(_ process: ThreadID) throws(SyscallError) -> Bool {
        guard let own = try? Files.link("/proc/self/ns/cgroup") else { return false }  // a kernel without them
        return try Files.link("/proc/\(process)/ns/cgroup") != own
    }

    /// How much of each path the task does not see: the same file read in its namespace has the rest.
    static func withHiddenParts(_ memberships: [CgroupSets.Membership], of process: ThreadID, seenAs file: String) throws(SyscallError) -> [CgroupSets.Membership] {
        let ours = try FileDescriptor.open("/proc/self/ns/cgroup", O_RDONLY), theirs = try FileDescriptor.open("/proc/\(process)/ns/cgroup", O_RDONLY)
        try enter(theirs)
        let text: String
        do throws(SyscallError) { text = try Files.text(file) } catch {
            try enter(ours)
            throw error
        }
        try enter(ours)
        let seen = Dictionary(CgroupSets.parse(text).map { ($0.name, $0.path) }, uniquingKeysWith: { a, _ in a })
        return memberships.map { membership in
            var membership = membership
            if let rest = seen[membership.name], !membership.path.hasPrefix("/.."), membership.path != "/" {
                if rest == "/" { membership.hidden = UInt32(membership.path.utf8.count) }
                else if membership.path.hasSuffix(rest) { membership.hidden = UInt32(membership.path.utf8.count - rest.utf8.count) }
            }
            return membership
        }
    }

    private static func enter(_ namespace: FileDescriptor) throws(SyscallError) {
        try Syscall.call("setns", SYS_setns, Int(namespace.number), 0x200_0000, on: .fd(namespace.number))  // CLONE_NEWCGROUP
    }
}
