import Glibc
package import ImageMessages
import Linux

/// Sockets of the family AF_NETLINK (netlink(7)): address, groups, connection, options. What waits in them to be read comes from
/// the kernel and can't be put back, so a socket with unread messages is refused.
package enum NetlinkSocket: OpenFileKind {
    package static var type: FdTypes { .netlinksk }

    private static let family: Int32 = 16, level: Int32 = 270  // AF_NETLINK, SOL_NETLINK
    private static let addMembership: Int32 = 1, listMemberships: Int32 = 9
    private static let connected: UInt32 = 1

    package static func claims(_ file: OpenFile) -> Bool {
        file.status.type == S_IFSOCK && (try? file.descriptor.intOption(SocketOption.domain)) == family
    }

    // MARK: Dump

    /// The kernel's list (sock_diag(7)) has sockets that have an address; the others are found out by getsockopt(2).
    package final class Listed: DumpState {
        private var sockets: [UInt32: NetlinkSocketInfo] = [:]
        private var namespaces: Set<UInt64> = []
        package init() {}
        func info(of file: OpenFile) throws(SyscallError) -> NetlinkSocketInfo? {
            let inode = UInt32(truncatingIfNeeded: file.status.inode)
            let namespace = try file.descriptor.networkNamespace()
            if namespaces.insert(try namespace.status().inode).inserted {
                for one in try SocketDiag.netlinkSockets(in: namespace) { sockets[one.inode] = one }
            }
            return sockets[inode]
        }
    }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.netlinksk, file.id)
        entry.nlsk = try CheckpointError.about("dump", file.subject) { try dumpSocket(file, context) }
        return entry
    }

    private static func dumpSocket(_ file: OpenFile, _ context: DumpContext) throws -> NetlinkSkEntry {
        try InetSocket.refuseOtherNamespace(file)
        let socket = file.descriptor, info = try context.state(of: Listed.self).info(of: file)
        let proto = UInt32(bitPattern: try socket.intOption(SocketOption.protocol))
        let waiting = try socket.queuedMemory()
        if waiting > 0 || info?.answering == true {
            throw CheckpointError(
                "dump", file.subject, "messages of the kernel (\(name(proto))) wait in it to be read, and only the kernel can send them",
                remedy: "dump again when the program has read them")
        }
        var entry = NetlinkSkEntry()
        (entry.id, entry.ino, entry.protocol, entry.flags) = (file.id, UInt32(truncatingIfNeeded: file.status.inode), proto, file.flags)
        let own = Address(try socket.localAddress()), peer = Address(try socket.peerAddress())
        entry.portid = own.port
        entry.groups = try groups(of: socket, info)
        let isConnected = info.map { UInt32($0.state) == connected } ?? (peer.port != 0 || peer.groups != 0)
        entry.state = isConnected ? connected : UInt32(info?.state ?? 0)
        entry.dstPortid = isConnected ? peer.port : 0
        entry.dstGroup = isConnected && peer.groups != 0 ? UInt32(peer.groups.trailingZeroBitCount) + 1 : 0
        entry.fown = try file.owner()
        entry.opts = try SocketOptions.dump(socket, credentials: true, extras: ExtraOptions.netlink)
        entry.type = UInt32(bitPattern: try socket.intOption(SocketOption.type))
        if info != nil { entry.nsID = context.networkNamespaceID }
        return entry
    }

    /// The bitmap, whole words; the kernel has room for as many groups as the protocol has (net/netlink/af_netlink.c).
    private static func groups(of socket: FileDescriptor, _ info: NetlinkSocketInfo?) throws(SyscallError) -> [UInt32] {
        var words: [UInt32]
        if let info { words = info.groups } else {
            let bytes = try socket.option(listMemberships, level: level, room: 512)
            words = stride(from: 0, to: bytes.count - 3, by: 4).map { at in (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << (8 * $1) } }
        }
        while words.last == 0 { words.removeLast() }
        return words
    }

    // MARK: Restore

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for file in entries {
            guard file.hasNlsk else { throw CheckpointError("restore", .image("files.img"), "entry \(file.id) of type NETLINKSK holds no nlsk message") }
            let entry = file.nlsk
            context.made(file.id, try CheckpointError.about("restore", subject(entry)) { try make(entry) })
        }
    }

    /// The filter and the size of the receive buffer come before the groups whose messages they are for.
    private static func make(_ entry: NetlinkSkEntry) throws -> FileDescriptor {
        guard entry.groups.count <= 64, entry.dstGroup <= 32 else {
            throw CheckpointError("restore", subject(entry), "its groups (\(entry.groups.count) words, to \(entry.dstGroup)) are more than a socket can have")
        }
        let type = entry.hasType ? Int32(bitPattern: entry.type) : 3  // SOCK_RAW; the kernel treats SOCK_DGRAM alike
        let socket = try FileDescriptor.socket(family, type, Int32(bitPattern: entry.protocol))
        try SocketOptions.restore(entry.opts, on: socket, extras: ExtraOptions.netlink)
        if entry.portid != 0 {
            do { try socket.bind(Address(port: entry.portid, groups: 0).bytes) } catch {
                guard error.errno.rawValue == EADDRINUSE else { throw error }
                throw CheckpointError(
                    "restore", subject(entry), "its address (port id \(entry.portid)) is taken by another socket", errno: error.errno)
            }
        }
        for (index, word) in entry.groups.enumerated() {
            for bit in 0..<32 where word & 1 << UInt32(bit) != 0 { try socket.setOption(addMembership, level: level, to: Int32(index * 32 + bit + 1)) }
        }
        if entry.state == connected {
            try socket.connect(Address(port: entry.dstPortid, groups: entry.dstGroup == 0 ? 0 : 1 << (entry.dstGroup - 1)).bytes)
        }
        try FileOwner.restore(entry.fown, on: socket)
        try socket.setStatusFlags(entry.flags)
        return socket
    }

    private static func subject(_ entry: NetlinkSkEntry) -> CheckpointError.Subject {
        .object("netlink socket \(entry.ino) (\(name(entry.protocol)), port id \(entry.portid))")
    }

    /// include/uapi/linux/netlink.h
    private static func name(_ proto: UInt32) -> String {
        let names: [UInt32: String] = [
            0: "ROUTE", 2: "USERSOCK", 4: "SOCK_DIAG", 5: "NFLOG", 6: "XFRM", 7: "SELINUX", 8: "ISCSI", 9: "AUDIT", 10: "FIB_LOOKUP", 11: "CONNECTOR",
            12: "NETFILTER", 15: "KOBJECT_UEVENT", 16: "GENERIC", 18: "SCSITRANSPORT", 20: "RDMA", 21: "CRYPTO", 22: "SMC",
        ]
        return names[proto].map { "NETLINK_" + $0 } ?? "protocol \(proto)"
    }

    /// struct sockaddr_nl: u16 family, u16 padding, port id, bitmap of the first 32 groups.
    private struct Address {
        var port: UInt32 = 0, groups: UInt32 = 0
        init(port: UInt32, groups: UInt32) { (self.port, self.groups) = (port, groups) }
        init(_ address: SocketAddress) {
            guard address.bytes.count >= 12 else { return }
            (port, groups) = (address.bytes.word(at: 4), address.bytes.word(at: 8))
        }
        var bytes: SocketAddress {
            SocketAddress(bytes: [16, 0, 0, 0] + little32(port) + little32(groups))
        }
    }
}
