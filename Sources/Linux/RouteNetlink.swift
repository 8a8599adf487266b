import CLinux
import Glibc

/// rtnetlink(7): addresses and routes of an interface, as raw messages that can be sent again.
public enum RouteNetlink {
    private static let newAddress: UInt16 = 20, getAddress: UInt16 = 22, newRoute: UInt16 = 24, getRoute: UInt16 = 26, getLink: UInt16 = 18

    /// Addresses of an interface: struct ifaddrmsg with its attributes.
    public static func addresses(of interface: UInt32) throws(SyscallError) -> [[UInt8]] {
        try list(getAddress).filter { $0.count >= 8 && $0.word(UInt32.self, at: 4) == interface }
    }

    /// Routes over an interface that somebody set: struct rtmsg with its attributes. The kernel's own come with the addresses.
    public static func routes(over interface: UInt32) throws(SyscallError) -> [[UInt8]] {
        try list(getRoute).filter { message in
            guard message.count >= 12, message[5] != 2 /* RTPROT_KERNEL */, message[4] != 255 /* RT_TABLE_LOCAL */ else { return false }
            var goesOver = false
            _ = SocketDiag.attributes(message, from: 12) { type, value in
                if type == 4 /* RTA_OIF */, value.count >= 4, message.word(UInt32.self, at: value.lowerBound) == interface { goesOver = true }
            }
            return goesOver
        }
    }

    /// Owner and group of a tun interface, of those that are set (IFLA_TUN_OWNER, IFLA_TUN_GROUP, include/uapi/linux/if_link.h).
    public static func tunOwner(of interface: UInt32) throws(SyscallError) -> (uid: UInt32?, gid: UInt32?) {
        var owner: (uid: UInt32?, gid: UInt32?) = (nil, nil)
        for message in try list(getLink, size: 16) where message.count >= 16 && message.word(UInt32.self, at: 4) == interface {  // struct ifinfomsg: family, type, index, flags, changes
            within(message, 16..<message.count, 18) { info in  // IFLA_LINKINFO
                within(message, info, 2) { data in  // IFLA_INFO_DATA
                    within(message, data, 1) { if $0.count >= 4 { owner.uid = message.word(UInt32.self, at: $0.lowerBound) } }
                    within(message, data, 2) { if $0.count >= 4 { owner.gid = message.word(UInt32.self, at: $0.lowerBound) } }
                }
            }
        }
        return owner
    }
    /// The attribute of that type inside a range of the message.
    private static func within(_ message: [UInt8], _ range: Range<Int>, _ wanted: Int, _ body: (Range<Int>) -> Void) {
        let part = Array(message[range])
        _ = SocketDiag.attributes(part, from: 0) { type, value in
            if type == wanted { body((range.lowerBound + value.lowerBound)..<(range.lowerBound + value.upperBound)) }
        }
    }

    /// Gives an address or a route back; what is there already stays.
    public static func add(address: [UInt8]) throws(SyscallError) { try change(newAddress, address) }
    public static func add(route: [UInt8]) throws(SyscallError) { try change(newRoute, route) }

    private static func list(_ type: UInt16, size: Int = 12) throws(SyscallError) -> [[UInt8]] {
        let netlink = try FileDescriptor.socket(16 /* AF_NETLINK */, 3 /* SOCK_RAW */)
        try netlink.send(header(type, flags: 0x301, length: size) + [UInt8](repeating: 0, count: size))  // NLM_F_REQUEST | NLM_F_DUMP
        var found = [[UInt8]]()
        while true {
            guard let answer = try netlink.receive(room: 1 << 16, flags: 0) else { continue }
            if try SocketDiag.parseMessages(answer.bytes, { found.append(Array($0)) }) == .done { return found }
        }
    }

    private static func change(_ type: UInt16, _ message: [UInt8]) throws(SyscallError) {
        let netlink = try FileDescriptor.socket(16, 3)
        try netlink.send(header(type, flags: 0x505, length: message.count) + message)  // NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE
        while true {
            guard let answer = try netlink.receive(room: 1 << 16, flags: 0) else { continue }
            if try SocketDiag.parseMessages(answer.bytes, { _ in }) == .done { return }
        }
    }

    /// struct nlmsghdr: length, type and flags, sequence number, port id.
    private static func header(_ type: UInt16, flags: UInt16, length: Int) -> [UInt8] {
        little32(UInt32(16 + length)) + little32(UInt32(type) | UInt32(flags) << 16) + little32(1) + little32(0)
    }
}
