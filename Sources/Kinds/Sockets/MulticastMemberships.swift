import ImageMessages
import Linux

/// Multicast groups that a socket has joined, with their source filters (ip(7), RFC 3678). The kernel does not list them by socket, but
/// it says for a group and an interface how this socket filters it (MCAST_MSFILTER), so all that are joined on the host are asked for.
final class MulticastMemberships: DumpState {
    private var groups: [UInt16: [MulticastGroup]] = [:]
    init() {}

    static let join: Int32 = 42, filter: Int32 = 48  // MCAST_JOIN_GROUP, MCAST_MSFILTER
    private static let mostSources = 64, addressSize = 128, headSize = 144  // struct group_filter: u32, padding, address, u32, u32, addresses
    static let options: [ExtraOptions.Option] = [InetOption.ip, InetOption.ipv6].flatMap { level in
        [ExtraOptions.Option(level: level, number: join, size: 8 + addressSize), .init(level: level, number: filter, size: headSize + mostSources * addressSize)]
    }

    /// What joins them again, as setsockopt(2) takes it.
    func dump(_ socket: FileDescriptor, family: UInt32) throws -> [StasisSocketOption] {
        var found = [StasisSocketOption]()
        // A socket of IPv6 may be a member of groups of IPv4, too.
        for family in family == UInt32(InetAddress.ipv6) ? [InetAddress.ipv6, InetAddress.ipv4] : [InetAddress.ipv4] {
            if groups[family] == nil { groups[family] = (try? MulticastGroup.all(family: family)) ?? [] }
            let level = family == InetAddress.ipv4 ? InetOption.ip : InetOption.ipv6
            for group in groups[family]! {
                let request = Self.request(group)
                var filter = request + [UInt8](repeating: 0, count: Self.headSize + Self.mostSources * Self.addressSize - request.count)
                filter[140] = UInt8(Self.mostSources)
                // EADDRNOTAVAIL: not a member.
                guard let length = try? socket.exchangeOption(Self.filter, level: level, &filter) else { continue }
                let sources = Int(filter[140]) | Int(filter[141]) << 8, excludes = filter[136] == 0  // MCAST_EXCLUDE
                if sources > Self.mostSources { throw CheckpointError("dump", .object("multicast group \(group.address.host)"), "it is filtered by \(sources) sources; \(Self.mostSources) are the most") }
                found.append(StasisSocketOption(level, Self.join, request))
                if sources > 0 || !excludes { found.append(StasisSocketOption(level, Self.filter, Array(filter[..<min(length, Self.headSize + sources * Self.addressSize)]))) }
            }
        }
        return found
    }

    /// struct group_req: u32 interface, padding, address.
    private static func request(_ group: MulticastGroup) -> [UInt8] {
        let address = group.address.socketAddress.bytes
        return (0..<4).map { UInt8(truncatingIfNeeded: group.interface >> (8 * $0)) } + [0, 0, 0, 0] + address + [UInt8](repeating: 0, count: addressSize - address.count)
    }
}
