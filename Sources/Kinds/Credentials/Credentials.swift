import CLinux
import Glibc
import Graft
import ImageMessages
import Linux

/// Who a thread is and what it may do: user and group ids, capabilities, securebits, no_new_privs (credentials(7), capabilities(7)).
/// Ids are those of the task's own user namespace, therefore the task is asked.
package struct Credentials {
    private static let maximumGroups = 4096
    private let users: Batch.Buffer, groups: Batch.Buffer, supplementary: Batch.Buffer
    private let supplementaryCount: Batch.Call, fileUser: Batch.Call, fileGroup: Batch.Call, secureBits: Batch.Call
    private let status: KeyedLines
    private let thread: ThreadID

    init(_ batch: inout Batch, thread: ThreadID, status: KeyedLines) {
        (self.status, self.thread) = (status, thread)
        users = batch.output(12)
        batch.call("getresuid", SYS_getresuid, .init(users.address), .init(users.address + 4), .init(users.address + 8))
        groups = batch.output(12)
        batch.call("getresgid", SYS_getresgid, .init(groups.address), .init(groups.address + 4), .init(groups.address + 8))
        // An impossible id changes nothing and answers what holds (setfsuid(2)).
        fileUser = batch.call("setfsuid", SYS_setfsuid, .init(UInt32.max))
        fileGroup = batch.call("setfsgid", SYS_setfsgid, .init(UInt32.max))
        let likely = status.words("Groups").count
        supplementary = batch.output(min(max(likely, 1), Self.maximumGroups) * 4)
        supplementaryCount = batch.call("getgroups", SYS_getgroups, .init(likely), supplementary.argument, mayFail: true)
        secureBits = batch.call("prctl(PR_GET_SECUREBITS)", SYS_prctl, .init(PR_GET_SECUREBITS), 0, 0, 0, 0)
    }

    func answer(_ batch: Batch) throws -> CredsEntry {
        var entry = CredsEntry()
        (entry.uid, entry.euid, entry.suid) = (batch.word32(of: users, 0), batch.word32(of: users, 1), batch.word32(of: users, 2))
        (entry.gid, entry.egid, entry.sgid) = (batch.word32(of: groups, 0), batch.word32(of: groups, 1), batch.word32(of: groups, 2))
        entry.fsuid = UInt32(truncatingIfNeeded: batch.result(fileUser))
        entry.fsgid = UInt32(truncatingIfNeeded: batch.result(fileGroup))
        let count = batch.result(supplementaryCount)
        guard count >= 0, count <= Self.maximumGroups else {
            throw CheckpointError("dump", .task(thread), "its supplementary groups can't be read (\(status.words("Groups").count) of them)")
        }
        entry.groups = (0..<count).map { batch.word32(of: supplementary, $0) }
        entry.secbits = UInt32(truncatingIfNeeded: batch.result(secureBits))
        func set(_ key: String) -> [UInt32] {
            let bits = status.hexadecimal(key) ?? 0
            return [UInt32(truncatingIfNeeded: bits), UInt32(truncatingIfNeeded: bits >> 32)]
        }
        (entry.capInh, entry.capPrm, entry.capEff) = (set("CapInh"), set("CapPrm"), set("CapEff"))
        (entry.capBnd, entry.capAmb) = (set("CapBnd"), set("CapAmb"))
        if status.decimal("NoNewPrivs") == 1 { entry.noNewPrivs = 1 }
        return entry
    }

    // Restore.

    private static let securityBitNoFixup = 4, lastCapability = Int(min(63, Files.number("/proc/sys/kernel/cap_last_cap") ?? 40))

    /// Those that every task we make begins with: ours.
    private static let own = try? Proc.status(.current)
    private static let ownCapabilities = own?.hexadecimal("CapPrm") ?? 0
    private static let setGroups: UInt64 = 1 << 6, setCapabilities: UInt64 = 1 << 8
    private static let ownGroups = Set(own?.words("Groups").compactMap { UInt32($0) } ?? [])

    private static func bits(_ words: [UInt32]) -> UInt64 {
        words.prefix(2).enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64(32 * $1.offset) }
    }

    /// From a root with every capability to what the image says. Each step still needs what the ones behind it take away:
    /// 1. groups, while CAP_SETGID is there;
    /// 2. "ids change no capabilities" (SECBIT_NO_SETUID_FIXUP), then the ids; fsuid behind euid, which drags it along;
    /// 3. inheritable capabilities, which can't be added once they left the bounding set; ambient ones, which must be
    ///    inheritable and permitted, and which a securebit may forbid to add;
    /// 4. the bounding set shrinks, securebits get their last values: both need CAP_SETPCAP;
    /// 5. no_new_privs, then `filters`: seccomp wants no_new_privs or CAP_SYS_ADMIN;
    /// 6. permitted and effective capabilities.
    ///
    /// Without CAP_SETGID and CAP_SETPCAP (--unprivileged) groups and securebits that are ours already stay, and so does our bounding set.
    static func restore(_ entry: CredsEntry, into batch: inout Batch, filters: (inout Batch) throws -> Void) throws {
        guard entry.groups.count <= 65536, entry.groups.count * 4 + 4096 < batch.dataRoom else {
            throw CheckpointError("restore", .object("credentials"), "\(entry.groups.count) supplementary groups are too many")
        }
        var groups = [UInt8]()
        for group in entry.groups { groups.append(word: group) }
        if ownCapabilities & setGroups != 0 || Set(entry.groups) != ownGroups {
            batch.call("setgroups", SYS_setgroups, .init(entry.groups.count), entry.groups.isEmpty ? 0 : batch.bytes(groups).argument)
        }
        let ruled = ownCapabilities & setCapabilities != 0
        if ruled { batch.call("prctl(PR_SET_SECUREBITS)", SYS_prctl, .init(PR_SET_SECUREBITS), .init(securityBitNoFixup), 0, 0, 0) }
        batch.call("setresgid", SYS_setresgid, .init(entry.gid), .init(entry.egid), .init(entry.sgid))
        batch.call("setfsgid", SYS_setfsgid, .init(entry.fsgid))
        batch.call("setresuid", SYS_setresuid, .init(entry.uid), .init(entry.euid), .init(entry.suid))
        batch.call("setfsuid", SYS_setfsuid, .init(entry.fsuid))

        let known = lastCapability == 63 ? UInt64.max : (1 << UInt64(lastCapability + 1)) - 1
        let (inheritable, permitted, effective) = (bits(entry.capInh) & known, bits(entry.capPrm) & known, bits(entry.capEff) & known)
        let (bounding, ambient) = (bits(entry.capBnd) & known, bits(entry.capAmb) & known)
        guard effective & ~permitted == 0 else { throw CheckpointError("restore", .object("credentials"), "capabilities are effective that are not permitted") }
        capset(inheritable: inheritable, permitted: ownCapabilities, effective: ownCapabilities, &batch)
        batch.call("prctl(PR_CAP_AMBIENT_CLEAR_ALL)", SYS_prctl, .init(PR_CAP_AMBIENT), .init(PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
        for capability in 0...lastCapability where ambient & inheritable & permitted & 1 << UInt64(capability) != 0 {
            batch.call("prctl(PR_CAP_AMBIENT_RAISE)", SYS_prctl, .init(PR_CAP_AMBIENT), .init(PR_CAP_AMBIENT_RAISE), .init(capability), 0, 0)
        }
        for capability in 0...lastCapability where ruled && bounding & 1 << UInt64(capability) == 0 {
            batch.call("prctl(PR_CAPBSET_DROP)", SYS_prctl, .init(PR_CAPBSET_DROP), .init(capability), 0, 0, 0)
        }
        if ruled || entry.secbits != 0 { batch.call("prctl(PR_SET_SECUREBITS)", SYS_prctl, .init(PR_SET_SECUREBITS), .init(entry.secbits), 0, 0, 0) }
        if entry.noNewPrivs != 0 { batch.call("prctl(PR_SET_NO_NEW_PRIVS)", SYS_prctl, .init(PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0) }
        try filters(&batch)
        capset(inheritable: inheritable, permitted: permitted, effective: effective, &batch)
    }

    private static func capset(inheritable: UInt64, permitted: UInt64, effective: UInt64, _ batch: inout Batch) {
        var header = [UInt8]()
        header.append(word: UInt32(0x2008_0522))  // _LINUX_CAPABILITY_VERSION_3
        header.append(word: UInt32(0))
        var data = [UInt8]()
        for shift in [UInt64(0), 32] {
            for set in [effective, permitted, inheritable] { data.append(word: UInt32(truncatingIfNeeded: set >> shift)) }
        }
        batch.call("capset", SYS_capset, batch.bytes(header).argument, batch.bytes(data).argument)
    }
}
