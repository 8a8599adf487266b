/// What the kernel says of one netlink socket with an address (sock_diag(7), net/netlink/diag.c).
public struct NetlinkSocketInfo: Equatable, Sendable {
    public var inode: UInt32 = 0
    public var `protocol`: UInt8 = 0
    /// 1 connected (connect(2), netlink(7)); 7 or 0 not.
    public var state: UInt8 = 0
    public var port: UInt32 = 0
    public var peerPort: UInt32 = 0
    /// The group's number, counted from 1; 0 none.
    public var peerGroup: UInt32 = 0
    /// Bitmap of the groups that it is a member of, the lowest first.
    public var groups: [UInt32] = []
    /// A dump that it asked for is not at its end: the kernel goes on with it as the socket is read.
    public var answering = false
}

extension SocketDiag {
    /// Netlink sockets that have an address, of every protocol.
    public static func netlinkSockets(in namespace: FileDescriptor? = nil) throws(SyscallError) -> [NetlinkSocketInfo] {
        // struct netlink_diag_req: family AF_NETLINK, protocol NDIAG_PROTO_ALL, padding, inode, what to show, cookie.
        // NDIAG_SHOW_GROUPS 2, NDIAG_SHOW_FLAGS 8.
        let request: [UInt8] = [16, 255, 0, 0] + little32(0) + little32(2 | 8) + little32(0) + little32(0)
        var found = [NetlinkSocketInfo]()
        try dump(request, in: namespace) { if let one = parseNetlink($0) { found.append(one) } }
        return found
    }

    /// struct netlink_diag_msg (28 bytes) and its attributes. Nil when it is cut short.
    static func parseNetlink(_ message: ArraySlice<UInt8>) -> NetlinkSocketInfo? {
        let bytes = Array(message)
        guard bytes.count >= 28, bytes[0] == 16 else { return nil }
        var info = NetlinkSocketInfo()
        (info.protocol, info.state, info.port) = (bytes[2], bytes[3], bytes.word(UInt32.self, at: 4))
        (info.peerPort, info.peerGroup, info.inode) = (bytes.word(UInt32.self, at: 8), bytes.word(UInt32.self, at: 12), bytes.word(UInt32.self, at: 16))
        let whole = attributes(bytes, from: 28) { type, value in
            switch type {  // enum in include/uapi/linux/netlink_diag.h
            case 1: info.groups = stride(from: value.lowerBound, to: value.upperBound - 3, by: 4).map { bytes.word(UInt32.self, at: $0) }
            case 4 where value.count >= 4: info.answering = bytes.word(UInt32.self, at: value.lowerBound) & 1 != 0
            default: break
            }
        }
        return whole ? info : nil
    }

    /// Walks the attributes (netlink(7), struct nlattr): type, and where in `bytes` the value lies. False when one is cut short.
    static func attributes(_ bytes: [UInt8], from start: Int, _ body: (Int, Range<Int>) -> Void) -> Bool {
        var at = start
        while at + 4 <= bytes.count {
            let length = Int(bytes[at]) | Int(bytes[at + 1]) << 8, type = Int(bytes[at + 2]) | Int(bytes[at + 3] & 0x3f) << 8
            guard length >= 4, length <= bytes.count - at else { return false }
            body(type, (at + 4)..<(at + length))
            at += (length + 3) & ~3
        }
        return true
    }
}
