import CLinux
import Glibc

/// rtnetlink(7): addresses and routes of an interface, as raw messages that can be sent again.
public enum RouteNetlink {
    public static let newLink: UInt16 = 16, deleteLink: UInt16 = 17, getLink: UInt16 = 18, newAddress: UInt16 = 20, getAddress: UInt16 = 22, newRoute: UInt16 = 24, getRoute: UInt16 = 26
    public static let newRule: UInt16 = 32, deleteRule: UInt16 = 33, getRule: UInt16 = 34, newNamespaceID: UInt16 = 88, getNamespaceID: UInt16 = 90

    /// Addresses of an interface: struct ifaddrmsg with its attributes.
    public static func addresses(of interface: UInt32) throws(SyscallError) -> [[UInt8]] {
        try list(getAddress).filter { $0.count >= 8 && $0.word(UInt32.self, at: 4) == interface }
    }

    /// Routes over an interface that somebody set: struct rtmsg with its attributes. The kernel's own come with the addresses.
    public static func routes(over interface: UInt32) throws(SyscallError) -> [[UInt8]] {
        try list(getRoute).filter { message in
            guard message.count >= 12, message[5] != 2 /* RTPROT_KERNEL */, message[4] != 255 /* RT_TABLE_LOCAL */ else { return false }
            return NetlinkMessage.attributes(message, from: 12)[4 /* RTA_OIF */]?.word(UInt32.self, at: 0) == interface
        }
    }

    /// Owner and group of a tun interface, of those that are set (IFLA_TUN_OWNER, IFLA_TUN_GROUP, include/uapi/linux/if_link.h).
    public static func tunOwner(of interface: UInt32) throws(SyscallError) -> (uid: UInt32?, gid: UInt32?) {
        for message in try list(getLink, size: 16) where message.count >= 16 && message.word(UInt32.self, at: 4) == interface {  // struct ifinfomsg: family, type, index, flags, changes
            let info = NetlinkMessage.attributes(message, from: 16)[18] ?? []  // IFLA_LINKINFO
            let data = NetlinkMessage.attributes(NetlinkMessage.attributes(info)[2] ?? [])  // IFLA_INFO_DATA
            return (data[1]?.word(at: 0), data[2]?.word(at: 0))
        }
        return (nil, nil)
    }

    /// Gives an address or a route back; what is there already stays.
    public static func add(address: [UInt8]) throws(SyscallError) { try change(newAddress, address) }
    public static func add(route: [UInt8]) throws(SyscallError) { try change(newRoute, route) }

    private static func list(_ type: UInt16, size: Int = 12) throws(SyscallError) -> [[UInt8]] {
        try NetlinkConnection(0).list(type, [UInt8](repeating: 0, count: size)).map(\.body)
    }
    private static func change(_ type: UInt16, _ body: [UInt8]) throws(SyscallError) {
        try NetlinkConnection(0).change(type, flags: NetlinkMessage.replace | NetlinkMessage.create, body)
    }
}
