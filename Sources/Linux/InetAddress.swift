import Glibc

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
            let scope: UInt32 = raw.word(at: 24)
            self.init(family: Self.ipv6, bytes: Array(raw[8..<24]), port: UInt16(raw[2]) << 8 | UInt16(raw[3]), scope: scope)
        default: return nil
        }
    }
    public var socketAddress: SocketAddress {
        let head = [UInt8(truncatingIfNeeded: family), 0, UInt8(port >> 8), UInt8(port & 0xff)]
        if family == Self.ipv4 { return SocketAddress(bytes: head + bytes + [UInt8](repeating: 0, count: 8)) }
        return SocketAddress(bytes: head + [0, 0, 0, 0] + bytes + little32(scope))
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

    /// Text as people write it, without the port: "10.0.0.1", "fe80::1" (inet_pton(3)).
    public init?(text: some StringProtocol, port: UInt16 = 0) {
        let family = text.contains(":") ? Self.ipv6 : Self.ipv4
        var bytes = [UInt8](repeating: 0, count: family == Self.ipv4 ? 4 : 16)
        guard unsafe bytes.withUnsafeMutableBytes({ unsafe inet_pton(Int32(family), String(text), $0.baseAddress) }) == 1 else { return nil }
        self.init(family: family, bytes: bytes, port: port)
    }

    /// The first address of a host name, or of an address in text (getaddrinfo(3)); nil when it has none.
    public init?(host: String, port: UInt16) {
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard unsafe getaddrinfo(host, "\(port)", &hints, &found) == 0, let first = unsafe found else { return nil }
        defer { unsafe freeaddrinfo(first) }
        guard let address = unsafe first.pointee.ai_addr else { return nil }
        self.init(SocketAddress(bytes: unsafe Array(UnsafeRawBufferPointer(start: address, count: Int(first.pointee.ai_addrlen)))))
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
    /// inet_ntop(3), with the interface of a link-local one.
    public var host: String {
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard unsafe inet_ntop(Int32(family), bytes, &text, socklen_t(text.count)) != nil else { return "" }
        let host = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return scope == 0 ? host : host + "%\(scope)"
    }
}
