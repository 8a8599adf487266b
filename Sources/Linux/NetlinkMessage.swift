import CLinux
import Glibc

/// One message of netlink(7) as it goes over the wire and as images keep it: struct nlmsghdr, body, padding to four bytes.
public struct NetlinkMessage: Equatable, Sendable {
    public var type: UInt16
    /// NLM_F_*.
    public var flags: UInt16
    public var body: [UInt8]
    public init(_ type: UInt16, flags: UInt16 = 0, _ body: [UInt8]) { (self.type, self.flags, self.body) = (type, flags, body) }

    public static let request: UInt16 = 1, acknowledge: UInt16 = 4, replace: UInt16 = 0x100, dump: UInt16 = 0x300, create: UInt16 = 0x400, append: UInt16 = 0x800

    /// The sequence number in CRIU's images: its restore sends messages as they are, and waits for an answer with this one.
    private static let sequence: UInt32 = 24680

    public var bytes: [UInt8] {
        let header = little32(UInt32(16 + body.count)) + little32(UInt32(type) | UInt32(flags) << 16) + little32(Self.sequence) + little32(0)
        return header + body + [UInt8](repeating: 0, count: -body.count & 3)
    }

    /// Messages back to back; nil when they are cut short.
    public static func all(in bytes: [UInt8]) -> [NetlinkMessage]? {
        var found = [NetlinkMessage](), at = 0
        while at < bytes.count {
            let length = Int(bytes.word(UInt32.self, at: at)), next = at + (length + 3) & ~3
            guard length >= 16, next <= bytes.count else { return nil }
            let kind = bytes.word(UInt32.self, at: at + 4)
            found.append(NetlinkMessage(UInt16(truncatingIfNeeded: kind), flags: UInt16(kind >> 16), Array(bytes[(at + 16)..<(at + length)])))
            at = next
        }
        return found
    }

    // MARK: attributes: u16 length, u16 type, value, padded to four bytes

    /// The values of the attributes that stand behind a fixed part of that size, by type; flags of the type (NLA_F_NESTED, NLA_F_NET_BYTEORDER) are left out. Of two of a type it is the last.
    public static func attributes(_ bytes: [UInt8], from start: Int = 0) -> [UInt16: [UInt8]] {
        var found = [UInt16: [UInt8]](), at = start
        while at + 4 <= bytes.count {
            let length = Int(bytes.word(UInt16.self, at: at))
            guard length >= 4, length <= bytes.count - at else { break }
            found[bytes.word(UInt16.self, at: at + 2) & 0x3fff] = Array(bytes[(at + 4)..<(at + length)])
            at += (length + 3) & ~3
        }
        return found
    }
    public static func attribute(_ type: UInt16, _ value: [UInt8]) -> [UInt8] {
        let length = UInt32(4 + value.count)
        precondition(length <= 0xffff, "an attribute of \(length) bytes")
        return little32(length | UInt32(type) << 16) + value + [UInt8](repeating: 0, count: -value.count & 3)
    }
    public static func attribute(_ type: UInt16, text: String) -> [UInt8] { attribute(type, Array(text.utf8) + [0]) }
    public static func attribute(_ type: UInt16, _ value: UInt32) -> [UInt8] { attribute(type, little32(value)) }
}

/// A netlink socket of this thread's network namespace on which one request after the other is made.
public struct NetlinkConnection {
    private let socket: FileDescriptor

    /// - Parameter protocol: NETLINK_ROUTE 0, NETLINK_NETFILTER 12.
    public init(_ protocol: Int32) throws(SyscallError) {
        socket = try FileDescriptor.socket(16 /* AF_NETLINK */, 3 /* SOCK_RAW */, `protocol`)
        _ = try? socket.setOption(SocketOption.sendBufferForce, to: Int32(1 << 22))
    }

    /// All that the kernel answers to a request with NLM_F_DUMP.
    public func list(_ type: UInt16, _ body: [UInt8]) throws(SyscallError) -> [NetlinkMessage] {
        var found = [NetlinkMessage]()
        try exchange(NetlinkMessage(type, flags: NetlinkMessage.request | NetlinkMessage.dump, body)) { found.append($0) }
        return found
    }

    /// Makes a change and waits for the kernel's acknowledgement.
    /// - Parameter flags: besides NLM_F_REQUEST and NLM_F_ACK.
    public func change(_ type: UInt16, flags: UInt16 = 0, _ body: [UInt8]) throws(SyscallError) {
        try exchange(NetlinkMessage(type, flags: NetlinkMessage.request | NetlinkMessage.acknowledge | flags, body)) { _ in }
    }

    private func exchange(_ request: NetlinkMessage, _ take: (NetlinkMessage) -> Void) throws(SyscallError) {
        try socket.send(request.bytes)
        while true {
            // The kernel's answers are at most 32 KiB (netlink_dump).
            guard let answer = try socket.receive(room: 1 << 16, flags: 0) else { continue }
            if try SocketDiag.parseWithHeaders(answer.bytes, take) == .done { return }
        }
    }
}
