import CLinux
import Glibc

extension SocketAddress {
    /// An address of ip(7) or ipv6(7) in numbers, "192.0.2.1" or "2001:db8::1"; nil when it is neither.
    public init?(numeric address: String, port: UInt16) {
        let family = address.contains(":") ? AF_INET6 : AF_INET
        var bytes = [UInt8](repeating: 0, count: 16)
        guard unsafe bytes.withUnsafeMutableBytes({ unsafe inet_pton(family, address, $0.baseAddress) }) == 1 else { return nil }
        let head = [UInt8(family), 0, UInt8(port >> 8), UInt8(truncatingIfNeeded: port)]
        self.init(bytes: family == AF_INET ? head + bytes[..<4] + [UInt8](repeating: 0, count: 8) : head + [0, 0, 0, 0] + bytes + [0, 0, 0, 0])
    }
    /// The first address of a host name or address (getaddrinfo(3)); nil when it has none.
    public init?(host: String, port: UInt16) {
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard unsafe getaddrinfo(host, "\(port)", &hints, &found) == 0, let first = unsafe found else { return nil }
        defer { unsafe freeaddrinfo(first) }
        guard let address = unsafe first.pointee.ai_addr else { return nil }
        self.init(bytes: unsafe Array(UnsafeRawBufferPointer(start: address, count: Int(first.pointee.ai_addrlen))))
    }
    /// The port of an internet address.
    public var port: UInt16? {
        guard family == UInt16(AF_INET) || family == UInt16(AF_INET6), bytes.count >= 4 else { return nil }
        return UInt16(bytes[2]) << 8 | UInt16(bytes[3])
    }
}
