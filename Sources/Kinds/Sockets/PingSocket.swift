import CLinux
import Glibc
package import ImageMessages
import Linux

/// Ping sockets: SOCK_DGRAM of ICMP and ICMPv6 (icmp(7)). The port is the identifier of the echo requests.
package enum PingSocket: ConnectionlessProtocol {
    package static func isFor(type: UInt32, number: UInt32) -> Bool { type == UInt32(SOCK_DGRAM.rawValue) && (number == 1 || number == 58) }

    /// Only the groups of net.ipv4.ping_group_range may make such sockets, root's or not: one of them is borrowed (icmp(7)).
    package static func make(_ entries: [InetSkEntry], _ context: RestoreContext) throws {
        if entries.isEmpty { return }
        let range = (try? Files.text("/proc/sys/net/ipv4/ping_group_range"))?.split(whereSeparator: \.isWhitespace).compactMap { UInt32($0) } ?? []
        let own = getegid()
        guard range.count == 2, range[0] <= range[1], !(range[0]...range[1]).contains(own) else { return try makeAll(entries, context) }
        try Syscall.call("setresgid", SYS_setresgid, -1, Int(range[0]), -1)
        defer { _ = try? Syscall.call("setresgid", SYS_setresgid, -1, Int(own), -1) }
        try makeAll(entries, context)
    }
}
