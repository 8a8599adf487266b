/// A set of capabilities (capabilities(7)); a capability's bit is its number in linux/capability.h.
public struct Capabilities: OptionSet, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    public static let setGroups = Self(rawValue: 1 << 6), setUsers = Self(rawValue: 1 << 7), setCapabilities = Self(rawValue: 1 << 8)
    public static let systemAdministration = Self(rawValue: 1 << 21), systemResources = Self(rawValue: 1 << 24), checkpointRestore = Self(rawValue: 1 << 40)

    /// Ours, effective and permitted (proc_pid_status(5)).
    public static var effective: Self { ofThisProcess("CapEff") }
    public static var permitted: Self { ofThisProcess("CapPrm") }
    private static func ofThisProcess(_ key: String) -> Self { Self(rawValue: (try? Proc.status(.current))?.hexadecimal(key) ?? 0) }

    /// "CAP_CHOWN", "CAP_SYS_ADMIN", in order of their numbers.
    public var names: [String] {
        (0..<64).filter { rawValue >> UInt64($0) & 1 != 0 }.map { $0 < Self.allNames.count ? "CAP_" + Self.allNames[$0].uppercased() : "capability \($0)" }
    }
    private static let allNames = """
        chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service net_broadcast net_admin net_raw \
        ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod \
        lease audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore
        """.split(separator: " ").map(String.init)
}
