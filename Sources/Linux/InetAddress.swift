/// An address and port of IPv4 (ip(7)) or IPv6 (ipv6(7)).
public struct InetAddress: Hashable, Sendable, Codable, CustomStringConvertible {
    public static let ipv4: UInt16 = 2, ipv6: UInt16 = 10
    public var family: UInt16
    /// 4 or 16 bytes, in network order.
    public var bytes: [UInt8]
    /// Host order.
    public var port: UInt16
    /// sin6_scope_id: the interface of a link-local address.
    public var scope: UInt32 = 0

    public init(family: UInt16, bytes: [UInt8], port: UInt16, scope: UInt32 = 0) {
        (self.family, self.bytes, self.port, self.scope) = (family, bytes, port, scope)
    }
    /// All zero: any address, any port.
    public init(anyOf family: UInt16) { self.init(family: family, bytes: [UInt8](repeating: 0, count: family == Self.ipv4 ? 4 : 16), port: 0) }

    /// struct sockaddr_in or sockaddr_in6; nil for any other family, or one cut short.
    public init?(_ address: SocketAddress) {
        let raw = address.bytes
        switch address.family {
        case Self.ipv4 where raw.count >= 8: self.init(family: Self.ipv4, bytes: Array(raw[4..<8]), port: UInt16(raw[2]) << 8 | UInt16(raw[3]))
        case Self.ipv6 where raw.count >= 28:
            let scope = (0..<4).reduce(UInt32(0)) { $0 | UInt32(raw[24 + $1]) << (8 * $1) }
            self.init(family: Self.ipv6, bytes: Array(raw[8..<24]), port: UInt16(raw[2]) << 8 | UInt16(raw[3]), scope: scope)
        default: return nil
        }
    }
    public var socketAddress: SocketAddress {
        let head = [UInt8(truncatingIfNeeded: family), 0, UInt8(port >> 8), UInt8(port & 0xff)]
        if family == Self.ipv4 { return SocketAddress(bytes: head + bytes + [UInt8](repeating: 0, count: 8)) }
        return SocketAddress(bytes: head + [0, 0, 0, 0] + bytes + (0..<4).map { UInt8(truncatingIfNeeded: scope >> (8 * $0)) })
    }

    /// The other end of a socket, also while it connects and when the connection is over (SO_PEERNAME, which wants the exact length).
    public init?(ofPeer socket: FileDescriptor) {
        for length in [28, 16] {
            guard let raw = try? socket.option(28, room: length) else { continue }
            self.init(SocketAddress(bytes: raw))
            return
        }
        return nil
    }

    /// Text as people write it: "10.0.0.1", "fe80::1%3", without the port.
    public init?(text: some StringProtocol, port: UInt16 = 0) {
        if let bytes = Self.parse4(text) {
            self.init(family: Self.ipv4, bytes: bytes, port: port)
        } else if let bytes = Self.parse6(String(text)) {
            self.init(family: Self.ipv6, bytes: bytes, port: port)
        } else { return nil }
    }
    private static func parse4(_ text: some StringProtocol) -> [UInt8]? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false), numbers = parts.compactMap { UInt8($0) }
        return parts.count == 4 && numbers.count == 4 ? numbers : nil
    }
    private static func parse6(_ text: String) -> [UInt8]? {
        var halves = [[UInt8]]()
        let sides = text.split(separator: "::", maxSplits: 1, omittingEmptySubsequences: false)
        for side in sides {
            var bytes = [UInt8]()
            for group in side.split(separator: ":", omittingEmptySubsequences: false) where !side.isEmpty {
                if group.contains(".") {
                    guard let four = parse4(group) else { return nil }
                    bytes += four
                } else {
                    guard group.count <= 4, let word = UInt16(group, radix: 16) else { return nil }
                    bytes += [UInt8(word >> 8), UInt8(word & 0xff)]
                }
            }
            halves.append(bytes)
        }
        if sides.count == 1 { return halves[0].count == 16 ? halves[0] : nil }
        guard sides.count == 2, halves[0].count + halves[1].count <= 14 else { return nil }
        return halves[0] + [UInt8](repeating: 0, count: 16 - halves[0].count - halves[1].count) + halves[1]
    }

    public var isAny: Bool { bytes.allSatisfy { $0 == 0 } }
    public var isLinkLocal: Bool { family == Self.ipv6 && bytes[0] == 0xfe && bytes[1] & 0xc0 == 0x80 }
    /// ::ffff:a.b.c.d as a.b.c.d: an IPv6 socket that speaks IPv4; any other address as it is.
    public var unmapped: InetAddress {
        let prefix = [UInt8](repeating: 0, count: 10) + [0xff, 0xff]
        guard family == Self.ipv6, Array(bytes.prefix(12)) == prefix else { return self }
        return InetAddress(family: Self.ipv4, bytes: Array(bytes.suffix(4)), port: port)
    }

    /// "10.0.0.1:80", "[fe80::1%3]:80".
    public var description: String { family == Self.ipv4 ? "\(host):\(port)" : "[\(host)]:\(port)" }
    public var host: String {
        if family == Self.ipv4 { return bytes.map { "\($0)" }.joined(separator: ".") }
        let mapped = unmapped
        if mapped.family == Self.ipv4 { return "::ffff:" + mapped.host }
        let words = (0..<8).map { UInt16(bytes[2 * $0]) << 8 | UInt16(bytes[2 * $0 + 1]) }
        // The longest run of zeros, two or more, is left out (RFC 5952).
        var best = 0..<0, start = 0
        for at in 0...8 where at == 8 || words[at] != 0 {
            if at - start > max(best.count, 1) { best = start..<at }
            start = at + 1
        }
        func joined(_ range: Range<Int>) -> String { range.map { String(words[$0], radix: 16) }.joined(separator: ":") }
        let text = best.isEmpty ? joined(0..<8) : joined(0..<best.lowerBound) + "::" + joined(best.upperBound..<8)
        return scope == 0 ? text : text + "%\(scope)"
    }
}
