import CLinux
import Glibc

/// The kernel's table of connections that its packet filters know (nf_conntrack), of this thread's network namespace, through ctnetlink
/// (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
public enum ConnectionTracking {
    /// Subsystem and message: NFNL_SUBSYS_CTNETLINK 1 and _EXP 2; IPCTNL_MSG_CT_NEW, _EXP_NEW 0; _GET 1.
    public static let newConnection: UInt16 = 1 << 8, newExpectation: UInt16 = 2 << 8
    private static let get: UInt16 = 1

    /// Whether it has entries. Nothing is loaded by asking.
    public static var isUsed: Bool { (Files.number("/proc/sys/net/netfilter/nf_conntrack_count") ?? 0) > 0 }

    public static func connections() throws(SyscallError) -> [NetlinkMessage] { try list(newConnection) }
    public static func expectations() throws(SyscallError) -> [NetlinkMessage] { try list(newExpectation) }

    /// struct nfgenmsg: family 0 (all), version, resource.
    private static func list(_ type: UInt16) throws(SyscallError) -> [NetlinkMessage] {
        try NetlinkConnection(12).list(type | get, [0, 0, 0, 0]).filter { $0.type == type }
    }

    /// Gives them back.
    public static func add(_ messages: [NetlinkMessage]) throws(SyscallError) {
        if messages.isEmpty { return }
        let netlink = try NetlinkConnection(12)
        for message in messages { try netlink.change(message.type, flags: NetlinkMessage.create, message.body) }
    }
}
