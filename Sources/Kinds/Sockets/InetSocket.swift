import Glibc
package import ImageMessages
package import Linux

/// Sockets of IPv4 and IPv6: what all protocols have in common. What differs is each protocol's own (`InetProtocol`).
package enum InetSocket: OpenFileKind {
    package static var type: FdTypes { .inetsk }

    package static func claims(_ file: OpenFile) -> Bool {
        guard file.status.type == S_IFSOCK, let family = try? file.descriptor.intOption(SocketOption.domain) else { return false }
        return family == InetAddress.ipv4 || family == InetAddress.ipv6
    }

    // Dump

    package static func postpones(_ file: OpenFile, _ context: DumpContext) throws -> Bool {
        try CheckpointError.about("dump", file.subject) {
            let type = UInt32(bitPattern: try file.descriptor.intOption(SocketOption.type))
            let number = UInt32(bitPattern: try file.descriptor.intOption(SocketOption.protocol))
            return try InetProtocols.of(type: type, number: number, file.subject).postpones(file, context)
        }
    }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        try dump(file, context, list: context.state(of: InetDump.self))
    }

    /// - Parameter list: where the kernel's lists are kept; a new one for what may have changed since the first socket was met.
    static func dump(_ file: OpenFile, _ context: DumpContext, list: InetDump) throws -> FileEntry {
        try CheckpointError.about("dump", file.subject) {
            var socket = InetSkEntry()
            socket.id = file.id
            socket.ino = UInt32(truncatingIfNeeded: file.status.inode)
            socket.family = UInt32(bitPattern: try file.descriptor.intOption(SocketOption.domain))
            socket.type = UInt32(bitPattern: try file.descriptor.intOption(SocketOption.type))
            socket.proto = UInt32(bitPattern: try file.descriptor.intOption(SocketOption.protocol))
            let kind = try InetProtocols.of(type: socket.type, number: socket.proto, file.subject)
            try refuseOtherNamespace(file)
            let info = try list.info(of: file, family: socket.family, protocol: kind.listedAs(socket.proto))
            socket.flags = file.flags
            try fillEnds(&socket, file.descriptor, info)
            if let info {
                socket.nsID = context.networkNamespaceID
                if info.shutdown & 3 != 0 { socket.shutdown = SkShutdown(rawValue: Int(info.shutdown & 3)) ?? .none }
            }
            socket.fown = try file.owner()
            socket.opts = try SocketOptions.dump(file.descriptor, credentials: false, extras: context.purpose == .explain ? [] : kind.extras(socket))
            if file.status.uid != 0 { socket.opts.ownerUid = file.status.uid }
            if file.status.gid != 0 { socket.opts.ownerGid = file.status.gid }
            if socket.family == InetAddress.ipv6 { socket.v6Only = try file.descriptor.intOption(InetOption.v6only, level: InetOption.ipv6) != 0 }
            socket.ipOpts = try InetOptions.dump(file.descriptor, family: socket.family)
            socket.tcpOpts = TcpOptsEntry()
            try kind.dump(file, info, &socket, context)
            var entry = FileEntry()
            (entry.type, entry.id, entry.isk) = (.inetsk, file.id, socket)
            return entry
        }
    }

    /// Addresses and ports, from sock_diag or, of a socket that it does not list, from the socket itself.
    private static func fillEnds(_ socket: inout InetSkEntry, _ descriptor: FileDescriptor, _ info: InetSocketInfo?) throws {
        let family = UInt16(socket.family)
        var local = try info?.local ?? InetAddress(descriptor.localAddress()) ?? InetAddress(anyOf: family)
        var peer = info?.peer ?? InetAddress(anyOf: family)
        if info == nil, let found = InetAddress(ofPeer: descriptor) { peer = found }
        if local.isLinkLocal || peer.isLinkLocal {
            if let own = InetAddress(try descriptor.localAddress()) { local.scope = own.scope }
            if let other = try? descriptor.peerAddress(), let known = InetAddress(other) { peer.scope = known.scope }
            if let interface = Interface(index: max(local.scope, peer.scope, info?.interface ?? 0)) { socket.ifname = interface.name }
        }
        socket.state = UInt32(info?.state ?? InetState.closed)
        (socket.srcPort, socket.dstPort) = (UInt32(local.port), UInt32(peer.port))
        (socket.srcAddr, socket.dstAddr) = (local.words, peer.words)
        socket.backlog = info?.writeQueue ?? 0
    }

    /// The images say nothing of network namespaces yet.
    static func refuseOtherNamespace(_ file: OpenFile) throws {
        guard let number = try? file.descriptor.ioctl("SIOCGSKNS", 0x894c), let own = try? Files.status("/proc/thread-self/ns/net") else { return }
        let its = FileDescriptor(owning: Int32(number))
        if try its.status().inode != own.inode {
            throw CheckpointError("dump", file.subject, "it belongs to another network namespace than the tree: not supported yet")
        }
    }

    // Restore

    /// Binds a socket of ours and lets it go again: only that asks the kernel everything.
    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries.map({ remapped($0.isk, context) }) {
            try context.verify("\(CheckpointError.Subject.inetSocket(entry))", "it can be bound") {
                if entry.proto == TCP.number, entry.dstPort != 0, entry.state != InetState.listening { return try TCPRestore.check(entry, context) }
                let (socket, inherited) = try CheckpointError.about("restore", .inetSocket(entry)) { try create(entry, context) }
                if !inherited { try bind(socket, entry) }
                if !inherited, !entry.ipOpts.freebind, !isHere(entry.local) {
                    context.doubt("\(CheckpointError.Subject.inetSocket(entry))", "its address \(entry.local) is none of this host's: nothing will reach it", remedy: "give this host the address, or the socket another one with --remap-address")
                }
            }
        }
    }

    /// Whether a socket may be bound to the address without IP_FREEBIND, with whatever port.
    private static func isHere(_ address: InetAddress) -> Bool {
        var address = address
        address.port = 0
        guard let probe = try? FileDescriptor.socket(Int32(address.family), Int32(SOCK_DGRAM.rawValue)) else { return true }
        do throws(SyscallError) { try probe.bind(address.socketAddress) } catch { return error.errno.rawValue != EADDRNOTAVAIL }
        return true
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for (kind, entries) in try byProtocol(entries, context) { try kind.make(entries, context) }
    }
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for (kind, entries) in try byProtocol(entries, context) { try kind.finish(entries, context) }
    }

    /// With the addresses that --remap-address gives it.
    private static func remapped(_ entry: InetSkEntry, _ context: RestoreContext) -> InetSkEntry {
        var entry = entry
        for remap in context.settings.addressRemaps where entry.type != UInt32(SOCK_RAW.rawValue) {
            let local = remap.applied(to: entry.local), peer = remap.applied(to: entry.peer)
            (entry.srcAddr, entry.srcPort) = (local.words, UInt32(local.port))
            if entry.dstPort != 0 { (entry.dstAddr, entry.dstPort) = (peer.words, UInt32(peer.port)) }
        }
        return entry
    }

    private static func byProtocol(_ entries: [FileEntry], _ context: RestoreContext) throws -> [(kind: any InetProtocol.Type, entries: [InetSkEntry])] {
        var groups = [(kind: any InetProtocol.Type, entries: [InetSkEntry])]()
        for entry in entries.map({ remapped($0.isk, context) }) {
            let kind = try InetProtocols.of(type: entry.type, number: entry.proto, .inetSocket(entry))
            if let at = groups.firstIndex(where: { $0.kind == kind }) { groups[at].entries.append(entry) } else { groups.append((kind, [entry])) }
        }
        return groups
    }

    private static func bind(_ socket: FileDescriptor, toDevice entry: InetSkEntry) throws {
        let name = entry.opts.soBoundDev
        do throws(SyscallError) { try socket.setOption(SocketOption.bindToDevice, bytes: Array(name.utf8.prefix(15)) + [0]) } catch {
            guard error.errno == Errno(ENODEV) else { throw error }
            throw CheckpointError("restore", .inetSocket(entry), "there is no network interface \(name)", remedy: "make it first, with that name", errno: error.errno)
        }
    }

    /// A socket as the image has it, or the one that --inherit-fd gives for it (then nothing more is to be done to it).
    /// Options that decide which addresses it may be bound to are set; it is not bound.
    /// - Parameter connected: its device is set last (`complete`): the connection's state is brought back by packets through another one.
    static func create(_ entry: InetSkEntry, _ context: RestoreContext, connected: Bool = false) throws -> (socket: FileDescriptor, inherited: Bool) {
        if let inherited = try context.inherited("socket:[\(entry.ino)]") { return (inherited, true) }
        let socket = try FileDescriptor.socket(Int32(entry.family), Int32(entry.type), Int32(entry.proto))
        // Where it is as wanted it is left alone: raw sockets can't change it.
        if entry.hasV6Only, try (socket.intOption(InetOption.v6only, level: InetOption.ipv6) != 0) != entry.v6Only {
            try socket.setOption(InetOption.v6only, level: InetOption.ipv6, to: entry.v6Only ? Int32(1) : 0)
        }
        if entry.opts.hasOwnerUid || entry.opts.hasOwnerGid { try Files.setOwner(socket.procPath, uid: entry.opts.ownerUid, gid: entry.opts.ownerGid) }
        if entry.opts.hasSoBoundDev && !connected { try bind(socket, toDevice: entry) }
        // What was possible once has to be possible again: the options' own values come last (`finish`).
        try socket.setOption(SocketOption.reuseAddress, to: Int32(1))
        if entry.opts.soReuseport { try socket.setOption(SocketOption.reusePort, to: Int32(1)) }
        try InetOptions.restore(entry.ipOpts, on: socket, family: entry.family)
        // IP_TRANSPARENT and IPV6_TRANSPARENT decide, too, where it may be bound.
        for option in entry.opts.extra where (option.level == 0 && option.number == 19) || (option.level == 41 && option.number == 75) {
            try socket.setOption(Int32(option.number), level: Int32(option.level), to: Int32(1))
        }
        return (socket, false)
    }

    /// Binds where the image says it was bound. An address without port (IP_BIND_ADDRESS_NO_PORT) gets none.
    static func bind(_ socket: FileDescriptor, _ entry: InetSkEntry) throws {
        let local = entry.local
        if local.port == 0 && local.isAny { return }
        let noPort = local.port == 0 && entry.type != UInt32(SOCK_RAW.rawValue)
        if noPort { try socket.setOption(InetOption.bindAddressNoPort, level: InetOption.ip, to: Int32(1)) }
        try CheckpointError.about("restore", .inetSocket(entry), remedy: "give this host the address \(local)") {
            do throws(SyscallError) { try socket.bind(local.socketAddress) } catch {
                if error.errno.rawValue == EADDRINUSE {
                    throw CheckpointError("restore", .inetSocket(entry), "its address \(local) is in use", remedy: "end the program that uses it", errno: error.errno)
                }
                // The address was bound freely once (IP_FREEBIND, ip(7)), or the host has it no longer.
                guard error.errno.rawValue == EADDRNOTAVAIL else { throw error }
                let v4 = local.family == InetAddress.ipv4, level = v4 ? InetOption.ip : InetOption.ipv6, option = v4 ? InetOption.freeBind : InetOption.v6FreeBind
                try socket.setOption(option, level: level, to: Int32(1))
                try socket.bind(local.socketAddress)
                try socket.setOption(option, level: level, to: entry.ipOpts.freebind ? Int32(1) : 0)
            }
        }
        if noPort { try socket.setOption(InetOption.bindAddressNoPort, level: InetOption.ip, to: Int32(0)) }
    }

    /// The options' own values, owner and status flags: the last step of a socket.
    static func complete(_ socket: FileDescriptor, _ entry: InetSkEntry) throws {
        try SocketOptions.restore(entry.opts, on: socket, extras: try InetProtocols.of(type: entry.type, number: entry.proto, .inetSocket(entry)).extras(entry))
        if entry.opts.hasReuseaddr { try socket.setOption(SocketOption.reuseAddress, to: entry.opts.reuseaddr ? Int32(1) : 0) }
        try FileOwner.restore(entry.fown, on: socket)
        // O_APPEND, O_NONBLOCK, O_ASYNC: what F_SETFL sets on a socket.
        if entry.flags & 0x2c00 != 0 { try socket.control(F_SETFL, Int(entry.flags & 0x2c00)) }
    }
}

/// What is particular to one protocol over IP. Entries are those of this protocol.
package protocol InetProtocol {
    /// Whether sockets of this SOCK_* type and IPPROTO_* number are its own.
    static func isFor(type: UInt32, number: UInt32) -> Bool
    /// The protocol under which sock_diag lists it.
    static func listedAs(_ number: UInt32) -> UInt8
    /// Options of its sockets that CRIU's images have no place for.
    static func extras(_ entry: InetSkEntry) -> [ExtraOptions.Option]
    /// Whether the socket is saved only when all else is; the protocol then adds its entry to the images itself.
    static func postpones(_ file: OpenFile, _ context: DumpContext) throws -> Bool
    /// Adds to `entry`, whose common fields are filled in. `info` is nil for a socket that sock_diag does not list.
    static func dump(_ file: OpenFile, _ info: InetSocketInfo?, _ entry: inout InetSkEntry, _ context: DumpContext) throws
    /// Makes the sockets and hands each to `context.made`.
    static func make(_ entries: [InetSkEntry], _ context: RestoreContext) throws
    /// What needs other open files, then the options (`InetSocket.complete`).
    static func finish(_ entries: [InetSkEntry], _ context: RestoreContext) throws
}
extension InetProtocol {
    package static func extras(_ entry: InetSkEntry) -> [ExtraOptions.Option] { ExtraOptions.all }
    package static func postpones(_ file: OpenFile, _ context: DumpContext) throws -> Bool { false }
    package static func listedAs(_ number: UInt32) -> UInt8 { UInt8(truncatingIfNeeded: number) }
}

/// The protocols, in the order they are asked.
package enum InetProtocols {
    static var all: [any InetProtocol.Type] { [TCP.self, UDP.self, PingSocket.self, RawSocket.self] }

    static func of(type: UInt32, number: UInt32, _ subject: CheckpointError.Subject) throws -> any InetProtocol.Type {
        if let found = all.first(where: { $0.isFor(type: type, number: number) }) { return found }
        throw CheckpointError("dump or restore", subject, "sockets of type \(type) and protocol \(number) can't be saved", remedy: "close it in the program before the dump")
    }
}

/// Numbers of socket states (include/net/tcp_states.h), used for all protocols.
package enum InetState {
    static let established: UInt8 = 1, synSent: UInt8 = 2, synReceived: UInt8 = 3, finWait1: UInt8 = 4, finWait2: UInt8 = 5, timeWait: UInt8 = 6
    static let closed: UInt8 = 7, closeWait: UInt8 = 8, lastAck: UInt8 = 9, listening: UInt8 = 10, closing: UInt8 = 11
    static func name(_ state: UInt32) -> String {
        let names = ["", "ESTABLISHED", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING"]
        return Int(state) < names.count ? names[Int(state)] : "state \(state)"
    }
}

extension InetAddress {
    /// As the images have addresses: the bytes in network order, read as native words.
    package var words: [UInt32] {
        stride(from: 0, to: bytes.count, by: 4).map { at in (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << (8 * $1) } }
    }
    package init(family: UInt32, words: [UInt32], port: UInt32, scope: UInt32) {
        let bytes = words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } }
        let family = UInt16(truncatingIfNeeded: family), length = family == Self.ipv4 ? 4 : 16
        self.init(family: family, bytes: Array((bytes + [UInt8](repeating: 0, count: 16)).prefix(length)), port: UInt16(truncatingIfNeeded: port), scope: scope)
    }
}

extension InetSkEntry {
    private var scope: UInt32 { hasIfname ? (try? Interface(ifname).index()) ?? 0 : 0 }
    package var local: InetAddress {
        let address = InetAddress(family: family, words: srcAddr, port: srcPort, scope: 0)
        return address.isLinkLocal ? InetAddress(family: family, words: srcAddr, port: srcPort, scope: scope) : address
    }
    package var peer: InetAddress {
        let address = InetAddress(family: family, words: dstAddr, port: dstPort, scope: 0)
        return address.isLinkLocal ? InetAddress(family: family, words: dstAddr, port: dstPort, scope: scope) : address
    }
}

extension CheckpointError.Subject {
    static func inetSocket(_ entry: InetSkEntry) -> Self {
        let names: [UInt32: String] = [6: "TCP", 17: "UDP", 136: "UDP-Lite", 1: "ICMP", 58: "ICMPv6"]
        let name = entry.type == 3 ? "raw" : names[entry.proto] ?? "inet"
        return .object("\(name) socket \(entry.ino) (\(entry.local)" + (entry.dstPort == 0 ? ")" : " to \(entry.peer))"))
    }
}
