import CLinux
import Glibc

/// What the kernel says of one socket of IPv4 or IPv6 (sock_diag(7), struct inet_diag_msg).
public struct InetSocketInfo: Equatable, Sendable {
    /// TCP's numbers, for all protocols: 1 established, 7 close, 10 listen.
    public var state: UInt8 = 0
    public var local: InetAddress
    public var peer: InetAddress
    /// SO_BINDTODEVICE, or the interface of a link-local address.
    public var interface: UInt32 = 0
    /// Bytes to read; for a listener the connections that wait.
    public var readQueue: UInt32 = 0
    /// Bytes to send and not yet acknowledged; for a listener its backlog.
    public var writeQueue: UInt32 = 0
    public var uid: UInt32 = 0
    /// 0 for a socket without file: TIME-WAIT, SYN-RECV, or closed by its process and still sending.
    public var inode: UInt32 = 0
    /// 1 no more reading, 2 no more writing.
    public var shutdown: UInt8 = 0
    public var v6only: Bool?
    /// By which the kernel knows it again.
    public var cookie: UInt64 = 0
}

extension SocketDiag {
    /// States as bits: all but TIME-WAIT (6) and SYN-RECV (3), which no descriptor refers to.
    public static let statesWithFile: UInt32 = 0xfff & ~(1 << 6) & ~(1 << 3)

    /// FIN-WAIT-1 and -2, LAST-ACK, CLOSING: of TCP, those in which a socket without descriptor may still be.
    private static let closingStates: UInt32 = 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11

    /// Every socket of a family and protocol (IPPROTO_*), of a network namespace. A socket that is neither bound nor connected is not listed.
    /// - Parameter namespace: an open /proc/PID/ns/net; nil for ours.
    public static func inetSockets(
        family: UInt16, protocol number: UInt8, states: UInt32 = statesWithFile, in namespace: FileDescriptor? = nil
    ) throws(SyscallError) -> [InetSocketInfo] {
        // struct inet_diag_req_v2: family, protocol, extensions, padding, states, then an inet_diag_sockid of 48 bytes, here zero.
        var request: [UInt8] = [UInt8(family), number, 0, 0]
        request += little32(states) + [UInt8](repeating: 0, count: 48)
        var found = [InetSocketInfo]()
        try dump(request, in: namespace) { if let one = parseInet($0) { found.append(one) } }
        return found
    }

    /// Ends what is left of a TCP connection that no descriptor refers to any more: it waits for its peer's answer (SOCK_DESTROY, Linux 4.9).
    /// - Returns: whether there was one.
    public static func destroyOrphan(from local: InetAddress, to peer: InetAddress) throws(SyscallError) -> Bool {
        guard let orphan = try inetSockets(family: local.family, protocol: 6, states: closingStates).first(where: { $0.inode == 0 && $0.local == local && $0.peer == peer }) else { return false }
        func port(_ address: InetAddress) -> [UInt8] { [UInt8(address.port >> 8), UInt8(truncatingIfNeeded: address.port)] }
        func place(_ address: InetAddress) -> [UInt8] { address.bytes + [UInt8](repeating: 0, count: 16 - address.bytes.count) }
        let id = port(local) + port(peer) + place(local) + place(peer) + little32(orphan.interface) + little64(orphan.cookie)
        let request = [UInt8(local.family), 6, 0, 0] + little32(UInt32.max) + id
        let netlink = try FileDescriptor.socket(16 /* AF_NETLINK */, 3 /* SOCK_RAW */, 4)
        try netlink.send(NetlinkMessage(21 /* SOCK_DESTROY */, flags: NetlinkMessage.request | NetlinkMessage.acknowledge, request).bytes)
        guard let answer = try netlink.receive(room: 4096, flags: 0), answer.bytes.count >= 20 else { return false }
        let code = Int32(bitPattern: answer.bytes.word(UInt32.self, at: 16))
        if code < 0 { throw SyscallError("SOCK_DESTROY", nil, -code) }
        return true
    }

    /// struct inet_diag_msg (72 bytes: family, state, timer, retransmissions, sockid, expires, queues, uid, inode) and its attributes.
    /// Nil when it is cut short.
    static func parseInet(_ message: ArraySlice<UInt8>) -> InetSocketInfo? {
        let bytes = Array(message)
        guard bytes.count >= 72, bytes[0] == 2 || bytes[0] == 10 else { return nil }
        let family = UInt16(bytes[0]), length = family == InetAddress.ipv4 ? 4 : 16
        // inet_diag_sockid: two ports in network order, two addresses of 16 bytes, interface, cookie.
        func port(_ at: Int) -> UInt16 { UInt16(bytes[at]) << 8 | UInt16(bytes[at + 1]) }
        var info = InetSocketInfo(
            local: InetAddress(family: family, bytes: Array(bytes[8..<(8 + length)]), port: port(4)),
            peer: InetAddress(family: family, bytes: Array(bytes[24..<(24 + length)]), port: port(6)))
        info.state = bytes[1]
        info.interface = bytes.word(UInt32.self, at: 40)
        info.cookie = bytes.word(UInt64.self, at: 44)
        (info.readQueue, info.writeQueue, info.uid, info.inode) = (bytes.word(UInt32.self, at: 56), bytes.word(UInt32.self, at: 60), bytes.word(UInt32.self, at: 64), bytes.word(UInt32.self, at: 68))
        var at = 72
        while at + 4 <= bytes.count {
            let length = Int(bytes[at]) | Int(bytes[at + 1]) << 8, type = Int(bytes[at + 2]) | Int(bytes[at + 3] & 0x3f) << 8
            guard length >= 4, length <= bytes.count - at else { return nil }
            switch type {  // INET_DIAG_SHUTDOWN, INET_DIAG_SKV6ONLY
            case 8 where length >= 5: info.shutdown = bytes[at + 4]
            case 11 where length >= 5: info.v6only = bytes[at + 4] != 0
            default: break
            }
            at += (length + 3) & ~3
        }
        return info
    }
}
