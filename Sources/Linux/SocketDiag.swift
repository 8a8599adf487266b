import CLinux
import Glibc

/// What the kernel says of one unix socket (sock_diag(7), net/unix/diag.c).
public struct UnixSocketInfo: Equatable, Sendable {
    public var inode: UInt32 = 0
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_SEQPACKET 5.
    public var type: UInt8 = 0
    /// TCP's numbers: 1 established, 7 close, 10 listen.
    public var state: UInt8 = 0
    /// sun_path as bind(2) got it; nil without a name.
    public var name: [UInt8]?
    /// Inode and device (major << 20 | minor) of the socket's file.
    public var file: (inode: UInt32, device: UInt32)?
    /// Inode of the peer; 0 when it was closed or is a connection that nobody accepted yet; nil without a peer.
    public var peer: UInt32?
    /// For a listener: inodes of the clients that wait to be accepted, 0 for one that is gone.
    public var waiting: [UInt32] = []
    /// Bytes to read; for a listener the connections that wait.
    public var readQueue: UInt32 = 0
    /// Bytes of kernel memory queued for writing; for a listener its backlog.
    public var writeQueue: UInt32 = 0
    /// 1 no more reading, 2 no more writing.
    public var shutdown: UInt8 = 0
    public var uid: UInt32?

    public static func == (a: Self, b: Self) -> Bool {
        a.inode == b.inode && a.type == b.type && a.state == b.state && a.name == b.name && a.file?.inode == b.file?.inode
            && a.file?.device == b.file?.device && a.peer == b.peer && a.waiting == b.waiting && a.readQueue == b.readQueue
            && a.writeQueue == b.writeQueue && a.shutdown == b.shutdown && a.uid == b.uid
    }
}

/// NETLINK_SOCK_DIAG, spoken by us (sock_diag(7), netlink(7)).
public enum SocketDiag {
    /// Every unix socket of a network namespace.
    /// - Parameter namespace: an open /proc/PID/ns/net; nil for ours.
    public static func unixSockets(in namespace: FileDescriptor? = nil) throws(SyscallError) -> [UnixSocketInfo] {
        // struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
        // UDIAG_SHOW_NAME 1, VFS 2, PEER 4, ICONS 8, RQLEN 16, MEMINFO 32, UID 64.
        var request = [UInt8]()
        request += [1, 0, 0, 0]
        request += little32(UInt32.max) + little32(0) + little32(0x7f) + little32(UInt32.max) + little32(UInt32.max)
        var found = [UnixSocketInfo]()
        try dump(request, in: namespace) { if let one = parseUnix($0) { found.append(one) } }
        return found
    }

    /// Sends SOCK_DIAG_BY_FAMILY (20) as a dump and hands over the body of each answer.
    /// - Parameter namespace: the socket is opened there; we are back in our own when this returns.
    public static func dump(_ request: [UInt8], in namespace: FileDescriptor?, _ body: (ArraySlice<UInt8>) -> Void) throws(SyscallError) {
        let netlink = try NetworkNamespace.inside(namespace) { () throws(SyscallError) in try FileDescriptor.socket(16 /* AF_NETLINK */, 3 /* SOCK_RAW */, 4) }
        try netlink.send(NetlinkMessage(20, flags: NetlinkMessage.request | NetlinkMessage.dump, request).bytes)
        while true {
            // The kernel's answers are at most 32 KiB (netlink_dump); MSG_TRUNC would say otherwise.
            guard let answer = try netlink.receive(room: 1 << 16, flags: 0) else { continue }
            switch try parseMessages(answer.bytes, body) {
            case .more: continue
            case .done: return
            }
        }
    }

    enum Progress { case more, done }

    /// The messages of one datagram (netlink(7)): NLMSG_ERROR 2 is thrown, NLMSG_DONE 3 ends.
    static func parseMessages(_ bytes: [UInt8], _ body: (ArraySlice<UInt8>) -> Void) throws(SyscallError) -> Progress {
        try parse(bytes) { _, payload in body(payload) }
    }
    static func parseWithHeaders(_ bytes: [UInt8], _ body: (NetlinkMessage) -> Void) throws(SyscallError) -> Progress {
        try parse(bytes) { body(NetlinkMessage(UInt16(truncatingIfNeeded: $0), flags: UInt16($0 >> 16), Array($1))) }
    }
    /// - Parameter body: gets type and flags, the flags in the upper half, and what follows the header.
    private static func parse(_ bytes: [UInt8], _ body: (UInt32, ArraySlice<UInt8>) -> Void) throws(SyscallError) -> Progress {
        var at = 0
        while at + 16 <= bytes.count {
            let length = Int(bytes.word(UInt32.self, at: at)), kind = bytes.word(UInt32.self, at: at + 4)
            guard length >= 16, length <= bytes.count - at else { throw SyscallError("netlink", nil, 71 /* EPROTO */) }
            let payload = bytes[(at + 16)..<(at + length)]
            switch UInt16(truncatingIfNeeded: kind) {
            case 3:  // what the dump ended with: 0 or minus errno
                let code = payload.count >= 4 ? Int32(bitPattern: bytes.word(UInt32.self, at: at + 16)) : 0
                if code < 0 && code > -4096 { throw SyscallError("netlink", nil, -code) }
                return .done
            case 2:
                let code = payload.count >= 4 ? Int32(bitPattern: bytes.word(UInt32.self, at: at + 16)) : -71
                if code == 0 { return .done }
                throw SyscallError("netlink", nil, code < 0 && code > -4096 ? -code : 71)
            default: body(kind, payload)
            }
            at += (length + 3) & ~3
        }
        if at == 0 { throw SyscallError("netlink", nil, 71) }
        return .more
    }

    /// struct unix_diag_msg (16 bytes: family, type, state, pad, inode, cookie) and its attributes. Nil when it is cut short.
    static func parseUnix(_ message: ArraySlice<UInt8>) -> UnixSocketInfo? {
        let bytes = Array(message)
        guard bytes.count >= 16, bytes[0] == 1 else { return nil }
        var info = UnixSocketInfo()
        (info.type, info.state, info.inode) = (bytes[1], bytes[2], bytes.word(UInt32.self, at: 4))
        var at = 16
        while at + 4 <= bytes.count {
            let length = Int(bytes[at]) | Int(bytes[at + 1]) << 8, type = Int(bytes[at + 2]) | Int(bytes[at + 3] & 0x3f) << 8
            guard length >= 4, length <= bytes.count - at else { return nil }
            let value = at + 4, count = length - 4
            switch type {  // enum in include/uapi/linux/unix_diag.h
            case 0: info.name = Array(bytes[value..<(value + count)])
            case 1 where count >= 8: info.file = (bytes.word(UInt32.self, at: value), bytes.word(UInt32.self, at: value + 4))
            case 2 where count >= 4: info.peer = bytes.word(UInt32.self, at: value)
            case 3: info.waiting = stride(from: value, to: value + count - 3, by: 4).map { bytes.word(UInt32.self, at: $0) }
            case 4 where count >= 8: (info.readQueue, info.writeQueue) = (bytes.word(UInt32.self, at: value), bytes.word(UInt32.self, at: value + 4))
            case 6 where count >= 1: info.shutdown = bytes[value]
            case 7 where count >= 4: info.uid = bytes.word(UInt32.self, at: value)
            default: break
            }
            at += (length + 3) & ~3
        }
        return info
    }
}
