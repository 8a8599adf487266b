import Glibc
import ImageMessages
import Kinds
import Linux

/// Whether we may give tasks what they had: their ids, users, groups and capabilities. The check and the restore ask alike, before anything is made.
enum CallerRights {
    static func refusals(_ input: RestoreInput, _ plan: TreePlan) -> [CheckpointError] {
        var found = [CheckpointError]()
        if let error = choosingIDs(plan) { found.append(error) }
        for (pid, process) in input.processes.sorted(by: { $0.key < $1.key }) {
            for creds in ([process.core] + process.threads.map(\.core)).map(\.threadCore.creds) {
                // Threads of a process mostly have the same.
                for error in refusals(of: ThreadID(pid), creds) where !found.contains(where: { "\($0)" == "\(error)" }) { found.append(error) }
            }
        }
        return found
    }

    /// clone3(2), set_tid: a right in the user namespace that our pid namespace belongs to.
    private static func choosingIDs(_ plan: TreePlan) -> CheckpointError? {
        let root = CheckpointError.Subject.task(ThreadID(plan.members[0].pid))
        if Capabilities.effective.isDisjoint(with: [.checkpointRestore, .systemAdministration]) {
            return CheckpointError("restore", root, "choosing its id needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN", remedy: "run as root, or give the program stasis that capability")
        }
        // NS_GET_USERNS, ioctl_ns(2): EPERM for a namespace whose owner lies outside of ours.
        if let own = try? FileDescriptor.open("/proc/self/ns/pid", O_RDONLY) {
            do throws(SyscallError) { _ = FileDescriptor(owning: Int32(try own.ioctl("NS_GET_USERNS", 0xb701))) } catch {
                guard error.errno == Errno(EPERM) else { return nil }
                return CheckpointError(
                    "restore", root, "choosing its id is not ours: the pid namespace belongs to another user namespace than ours", remedy: "restore in a pid namespace made in this user namespace")
            }
        }
        guard let largest = Files.number("/proc/sys/kernel/pid_max").map({ Int32(clamping: $0) }), let beyond = plan.ids.filter({ $0 >= largest }).min()
        else { return nil }
        return CheckpointError("restore", .task(ThreadID(beyond)), "ids end at \(largest - 1) here", remedy: "sysctl kernel.pid_max=\((plan.ids.max() ?? beyond) + 1)")
    }

    private static func refusals(of task: ThreadID, _ creds: CredsEntry) -> [CheckpointError] {
        var found = [CheckpointError]()
        let groups = [creds.gid, creds.egid, creds.sgid, creds.fsgid] + creds.groups
        for (kind, ids) in [("uid", [creds.uid, creds.euid, creds.suid, creds.fsuid]), ("gid", groups)] {
            guard let foreign = Set(ids).sorted().first(where: { !isMapped($0, kind) }) else { continue }
            found.append(CheckpointError("restore", .task(task), "\(kind) \(foreign) does not exist in our user namespace", remedy: "restore in a user namespace that maps it"))
        }
        func refuse(_ what: String, _ capability: Capabilities) {
            found.append(CheckpointError("restore", .task(task), "\(what) needs \(capability.names[0])", remedy: "run as root"))
        }
        let effective = Capabilities.effective
        if !effective.contains(.setUsers), Set([creds.uid, creds.euid, creds.suid, creds.fsuid]) != [getuid()] { refuse("giving it uid \(creds.euid)", .setUsers) }
        if !effective.contains(.setGroups), Set([creds.gid, creds.egid, creds.sgid, creds.fsgid]) != [getgid()] { refuse("giving it gid \(creds.egid)", .setGroups) }
        let lacking = Capabilities(creds.capPrm).subtracting(.permitted)
        if !lacking.isEmpty {
            found.append(CheckpointError("restore", .task(task), "it had \(lacking.names.joined(separator: ", ")), which we do not have", remedy: "restore with these capabilities, too"))
        }
        return found
    }

    /// user_namespaces(7): /proc/PID/uid_map has first id inside, first id outside, how many.
    private static func isMapped(_ id: UInt32, _ kind: String) -> Bool {
        guard let text = try? Files.text("/proc/self/\(kind)_map") else { return true }
        return text.split(separator: "\n").contains { line in
            let numbers = line.split(separator: " ").compactMap { UInt64($0) }
            return numbers.count == 3 && (numbers[0]..<numbers[0] + numbers[2]).contains(UInt64(id))
        }
    }
}

extension Capabilities {
    /// As images have them: two words, of which the second may be missing. What this kernel does not know nobody can have.
    fileprivate init(_ words: [UInt32]) {
        let last = Files.number("/proc/sys/kernel/cap_last_cap") ?? 40
        let all = words.prefix(2).enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << UInt64(32 * $1.offset) }
        self.init(rawValue: last >= 63 ? all : all & (1 << (last + 1) - 1))
    }
}
