import ImageMessages
import Linux

/// Option numbers of levels IPPROTO_IP (ip(7)), IPPROTO_IPV6 (ipv6(7)) and SOL_SOCKET that this folder uses.
enum InetOption {
    static let ip: Int32 = 0, ipv6: Int32 = 41
    static let tos: Int32 = 1, ttl: Int32 = 2, packetInfo: Int32 = 8, freeBind: Int32 = 15, bindAddressNoPort: Int32 = 24
    static let v6only: Int32 = 26, v6PacketInfo: Int32 = 49, v6FreeBind: Int32 = 78
}

/// Options of the IP level that every protocol has: ip_opts_entry. Written only where they are not zero; TOS and TTL of IPv4 only.
enum InetOptions {
    static func dump(_ socket: FileDescriptor, family: UInt32) throws -> IpOptsEntry {
        var entry = IpOptsEntry()
        if family == InetAddress.ipv4 {
            if try socket.intOption(InetOption.freeBind, level: InetOption.ip) != 0 { entry.freebind = true }
            if try socket.intOption(InetOption.packetInfo, level: InetOption.ip) != 0 { entry.pktinfo = true }
            let tos = try socket.intOption(InetOption.tos, level: InetOption.ip), ttl = try socket.intOption(InetOption.ttl, level: InetOption.ip)
            if tos != 0 { entry.tos = UInt32(bitPattern: tos) }
            if ttl != 0 { entry.ttl = UInt32(bitPattern: ttl) }
        } else {
            if try socket.intOption(InetOption.v6FreeBind, level: InetOption.ipv6) != 0 { entry.freebind = true }
            if try socket.intOption(InetOption.v6PacketInfo, level: InetOption.ipv6) != 0 { entry.pktinfo = true }
        }
        return entry
    }

    static func restore(_ entry: IpOptsEntry, on socket: FileDescriptor, family: UInt32) throws {
        let v4 = family == InetAddress.ipv4, level = v4 ? InetOption.ip : InetOption.ipv6
        func set(_ option: Int32, _ value: Int32) throws {
            if try socket.intOption(option, level: level) != value { try socket.setOption(option, level: level, to: value) }
        }
        if entry.freebind { try set(v4 ? InetOption.freeBind : InetOption.v6FreeBind, 1) }
        if entry.pktinfo { try set(v4 ? InetOption.packetInfo : InetOption.v6PacketInfo, 1) }
        if v4 && entry.hasTos { try set(InetOption.tos, Int32(bitPattern: entry.tos)) }
        if v4 && entry.hasTtl { try set(InetOption.ttl, Int32(bitPattern: entry.ttl)) }
    }
}
