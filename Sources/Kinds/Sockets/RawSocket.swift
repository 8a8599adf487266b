import Glibc
package import ImageMessages
package import Linux

/// Raw sockets (raw(7)) of any protocol, with their filters of ICMP types. Packets that wait to be read are lost, as on a link.
package enum RawSocket: ConnectionlessProtocol {
    private static let icmp: UInt32 = 1, icmp6: UInt32 = 58
    private enum Option {
        static let filterLevel: Int32 = 255, filter6Level: Int32 = 58, filter: Int32 = 1  // SOL_RAW, SOL_ICMPV6; ICMP_FILTER, ICMPV6_FILTER
        static let headerIncluded: Int32 = 3, headerIncluded6: Int32 = 36, noDefragmentation: Int32 = 22, checksum: Int32 = 23
    }

    package static func isFor(type: UInt32, number: UInt32) -> Bool { type == UInt32(SOCK_RAW.rawValue) }
    package static func listedAs(_ number: UInt32) -> UInt8 { 255 }

    package static func save(_ file: OpenFile, _ info: InetSocketInfo?, _ entry: inout InetSkEntry) throws {
        let socket = file.descriptor, v4 = entry.family == InetAddress.ipv4
        var raw = IpOptsRawEntry()
        if try socket.intOption(v4 ? Option.headerIncluded : Option.headerIncluded6, level: v4 ? InetOption.ip : InetOption.ipv6) != 0 { raw.hdrincl = true }
        if v4 {
            if try socket.intOption(Option.noDefragmentation, level: InetOption.ip) != 0 { raw.nodefrag = true }
            if try socket.intOption(Option.checksum, level: InetOption.ip) != 0 { raw.checksum = true }
        }
        if entry.proto == icmp && v4 { raw.icmpvFilter = try socket.option(Option.filter, level: Option.filterLevel, room: 4).words(in: 0..<4) }
        if entry.proto == icmp6 && !v4 { raw.icmpvFilter = try socket.option(Option.filter, level: Option.filter6Level, room: 32).words(in: 0..<32) }
        if raw != IpOptsRawEntry() { entry.ipOpts.raw = raw }
    }

    package static func prepare(_ socket: FileDescriptor, _ entry: InetSkEntry) throws {
        let v4 = entry.family == InetAddress.ipv4, level = v4 ? InetOption.ip : InetOption.ipv6, raw = entry.ipOpts.raw
        func set(_ option: Int32, _ wanted: Bool) throws {
            if (try socket.intOption(option, level: level) != 0) != wanted { try socket.setOption(option, level: level, to: wanted ? Int32(1) : 0) }
        }
        // The filter first: from the bind on packets come in.
        if !raw.icmpvFilter.isEmpty {
            try socket.setOption(Option.filter, level: v4 ? Option.filterLevel : Option.filter6Level, bytes: raw.icmpvFilter.flatMap(little32))
        }
        try set(v4 ? Option.headerIncluded : Option.headerIncluded6, raw.hdrincl)
        if v4 {
            try set(Option.noDefragmentation, raw.nodefrag)
            try set(Option.checksum, raw.checksum)
        }
    }
}
