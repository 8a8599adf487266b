import CLinux
import Glibc
import Graft
package import ImageMessages
package import Linux

/// Sockets of the family AF_PACKET (packet(7)): what they listen to, their options, memberships, fanout group and rings. Packets
/// that wait in a socket without ring are lost, as on a link.
package enum PacketSocket: OpenFileKind {
    package static var type: FdTypes { .packetsk }

    private static let family: Int32 = 17, level: Int32 = 263  // AF_PACKET, SOL_PACKET
    private static let oldType: UInt32 = 10  // SOCK_PACKET
    private enum Option {
        static let addMembership: Int32 = 1, receiveRing: Int32 = 5, copyThreshold: Int32 = 7, auxiliaryData: Int32 = 8, originalDevice: Int32 = 9
        static let version: Int32 = 10, reserve: Int32 = 12, transmitRing: Int32 = 13, loss: Int32 = 14, vnetHeader: Int32 = 15
        static let timestamp: Int32 = 17, fanout: Int32 = 18
    }

    package static func claims(_ file: OpenFile) -> Bool {
        file.status.type == S_IFSOCK && (try? file.descriptor.intOption(SocketOption.domain)) == family
    }

    /// The kernel's list, and the sockets that were saved: mappings of rings look for theirs.
    package final class Known: DumpState {
        private var sockets: [UInt32: PacketSocketInfo] = [:]
        private var namespaces: Set<UInt64> = []
        fileprivate var saved: [UInt64: (id: UInt32, ringBytes: UInt64)] = [:]
        package init() {}
        func info(of file: OpenFile) throws -> PacketSocketInfo {
            let namespace = try file.descriptor.networkNamespace()
            if namespaces.insert(try namespace.status().inode).inserted {
                for one in try SocketDiag.packetSockets(in: namespace) { sockets[one.inode] = one }
            }
            if let found = sockets[UInt32(truncatingIfNeeded: file.status.inode)] { return found }
            throw CheckpointError("dump", file.subject, "the kernel's list of packet sockets (sock_diag) lacks it", remedy: "load the kernel module af_packet_diag")
        }
    }

    // MARK: Dump

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.packetsk, file.id)
        entry.psk = try CheckpointError.about("dump", file.subject) { try dumpSocket(file, context) }
        return entry
    }

    private static func dumpSocket(_ file: OpenFile, _ context: DumpContext) throws -> PacketSockEntry {
        try InetSocket.refuseOtherNamespace(file)
        let known = context.state(of: Known.self), info = try known.info(of: file)
        var entry = PacketSockEntry()
        (entry.id, entry.flags) = (file.id, file.flags)
        entry.type = UInt32(bitPattern: try file.descriptor.intOption(SocketOption.type))
        (entry.protocol, entry.ifindex) = (UInt32(info.protocol.bigEndian), info.interface)
        entry.fown = try file.owner()
        entry.opts = try SocketOptions.dump(file.descriptor, credentials: false, extras: ExtraOptions.packet)
        (entry.version, entry.reserve, entry.copyThresh, entry.timestamp) = (info.version, info.reserve, info.copyThreshold, info.timestamp)
        (entry.auxData, entry.origDev, entry.vnetHdr, entry.loss) = (info.flags & 2 != 0, info.flags & 4 != 0, info.flags & 8 != 0, info.flags & 16 != 0)
        for membership in info.memberships {
            var member = PacketMclist()
            (member.index, member.type, member.addr) = (membership.interface, UInt32(membership.type), .init(imageBytes: membership.address))
            entry.mclist += [PacketMclist](repeating: member, count: Int(min(membership.count, 1024)))
        }
        if info.fanout != nil { entry.fanout = try fanout(of: file) }
        if let ring = info.receiveRing { entry.rxRing = PacketRing(ring) }
        if let ring = info.transmitRing { entry.txRing = PacketRing(ring) }
        entry.nsID = context.networkNamespaceID
        try PacketRings.dump(file.descriptor, &entry)
        known.saved[file.status.inode] = (file.id, (info.receiveRing?.bytes ?? 0) + (info.transmitRing?.bytes ?? 0))
        return entry
    }

    /// sock_diag leaves out the group's flags; a group that distributes by a program does not give the program out.
    private static func fanout(of file: OpenFile) throws -> UInt32 {
        let value = UInt32(bitPattern: try file.descriptor.intOption(Option.fanout, level: level))
        guard ![6, 7].contains(value >> 16 & 0xff) else {  // PACKET_FANOUT_CBPF, PACKET_FANOUT_EBPF
            throw CheckpointError("dump", file.subject, "its fanout group distributes packets by a BPF program, which the kernel does not give out")
        }
        return value
    }

    /// The file id that a mapping of a ring refers to.
    package static func fileID(mapping: Mapping, _ subject: CheckpointError.Subject, _ context: DumpContext) throws -> UInt32 {
        guard let found = context.state(of: Known.self).saved[mapping.inode] else {
            throw CheckpointError(
                "dump", subject, "it is a mapping of a socket that is no packet socket, or of one of which neither this process nor one before it has a descriptor")
        }
        guard found.ringBytes == mapping.length, mapping.offset == 0 else {
            throw CheckpointError("dump", subject, "only a part of the packet socket's rings is mapped (\(mapping.length) of \(found.ringBytes) bytes), or parts with different protection")
        }
        return found.id
    }

    // MARK: Restore

    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries.map(\.psk) {
            try context.verify("\(subject(entry))", "its interface is there") { try requireInterface(entry) }
        }
    }

    private static func requireInterface(_ entry: PacketSockEntry) throws {
        guard entry.ifindex != 0, Interface(index: entry.ifindex) == nil else { return }
        throw CheckpointError("restore", subject(entry), "there is no network interface with index \(entry.ifindex)", remedy: "make it first: ip link add ... index \(entry.ifindex)", errno: Errno(ENODEV))
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for file in entries {
            guard file.hasPsk else { throw CheckpointError("restore", .image("files.img"), "entry \(file.id) of type PACKETSK holds no psk message") }
            let entry = file.psk
            context.made(file.id, try CheckpointError.about("restore", subject(entry)) { try make(entry) })
        }
    }

    /// A socket without protocol gets no packets: it is bound when everything that decides about packets is in place.
    private static func make(_ entry: PacketSockEntry) throws -> FileDescriptor {
        try requireInterface(entry)
        let isOld = entry.type == oldType
        let socket = try FileDescriptor.socket(family, Int32(bitPattern: entry.type), isOld ? Int32(bitPattern: entry.protocol) : 0)
        func set(_ option: Int32, _ value: UInt32) throws {
            if value != 0 { try socket.setOption(option, level: level, to: Int32(bitPattern: value)) }
        }
        try ExtraOptions.restore(entry.opts.extra.filter { $0.level == UInt32(level) }, ExtraOptions.packet, on: socket)
        // Before the rings: the kernel refuses them afterwards (EBUSY).
        try set(Option.version, entry.version)
        try set(Option.reserve, entry.reserve)
        try set(Option.vnetHeader, entry.vnetHdr ? 1 : 0)
        try set(Option.loss, entry.loss ? 1 : 0)
        try set(Option.timestamp, entry.timestamp)
        try set(Option.copyThreshold, entry.copyThresh)
        try set(Option.auxiliaryData, entry.auxData ? 1 : 0)
        try set(Option.originalDevice, entry.origDev ? 1 : 0)
        for member in entry.mclist {
            let address = Array(member.addr)
            guard address.count <= 32 else { throw CheckpointError("restore", subject(entry), "a membership's address has \(address.count) bytes, 32 are the most") }
            // struct packet_mreq: interface, u16 type, u16 length, at least 8 bytes of address
            let request = little32(member.index) + little32(member.type & 0xffff | UInt32(address.count) << 16) + address
            try socket.setOption(Option.addMembership, level: level, bytes: request + [UInt8](repeating: 0, count: max(0, 16 - request.count)))
        }
        if entry.hasRxRing { try socket.setOption(Option.receiveRing, level: level, bytes: entry.rxRing.request(version: entry.version)) }
        if entry.hasTxRing { try socket.setOption(Option.transmitRing, level: level, bytes: entry.txRing.request(version: entry.version)) }
        try PacketRings.restore(entry, socket)
        try SocketOptions.restore(entry.opts, on: socket, extras: ExtraOptions.packet)
        if isOld {
            if entry.ifindex != 0 { try socket.bind(SocketAddress(bytes: [17, 0] + (try socket.interfaceName(entry.ifindex, room: 14)))) }
        } else if entry.protocol != 0 || entry.ifindex != 0 {
            // struct sockaddr_ll: u16 family, u16 protocol, interface, and 12 bytes that bind(2) does not look at
            let address: [UInt8] = [17, 0, UInt8(truncatingIfNeeded: entry.protocol), UInt8(truncatingIfNeeded: entry.protocol >> 8)] + little32(entry.ifindex)
            try socket.bind(SocketAddress(bytes: address + [UInt8](repeating: 0, count: 12)))
        }
        if entry.hasFanout, entry.fanout != .max { try socket.setOption(Option.fanout, level: level, to: entry.fanout) }
        try FileOwner.restore(entry.fown, on: socket)
        try socket.setStatusFlags(entry.flags)
        return socket
    }

    /// Maps the rings where they were, in place of what kept their addresses free.
    package static func mapRings(of mappings: [VmaEntry], in task: any RestoredTask, _ context: RestoreContext) throws {
        for mapping in mappings where mapping.statusBits.contains(.socket) {
            let id = UInt32(truncatingIfNeeded: mapping.shmid)
            try CheckpointError.about("restore", .mapping(mapping.start..<mapping.end, name: "rings of packet socket, file id \(id)", of: task.pid)) {
                let number = try task.receive([try context.requireDescriptor(of: id)])[0]
                var batch = task.grafted.batch()
                let flags = mapping.flags & 3 | 0x10  // MAP_SHARED or MAP_PRIVATE, MAP_FIXED
                batch.call("mmap", SYS_mmap, .init(mapping.start), .init(mapping.length), .init(mapping.prot), .init(flags), .init(number), 0)
                batch.call("close", SYS_close, .init(number))
                for advice in [10, 16] as [UInt64] where mapping.hasMadv && mapping.madv & 1 << advice != 0 {  // MADV_DONTFORK, MADV_DONTDUMP
                    batch.call("madvise", SYS_madvise, .init(mapping.start), .init(mapping.length), .init(advice))
                }
                try task.grafted.run(&batch)
            }
        }
    }

    private static func subject(_ entry: PacketSockEntry) -> CheckpointError.Subject {
        .object("packet socket, file id \(entry.id) (protocol 0x\(String(UInt16(truncatingIfNeeded: entry.protocol).byteSwapped, radix: 16)), interface \(entry.ifindex))")
    }
}

extension PacketRing {
    init(_ ring: PacketSocketInfo.Ring) {
        self.init()
        (blockSize, blockNr, frameSize, frameNr) = (ring.blockSize, ring.blocks, ring.frameSize, ring.frames)
        (retireTmo, sizeofPriv, features) = (ring.retireTimeout, ring.privateSize, ring.features)
    }
    /// struct tpacket_req, of version 3 (number 2) struct tpacket_req3.
    func request(version: UInt32) -> [UInt8] {
        let words = [blockSize, blockNr, frameSize, frameNr] + (version == 2 ? [retireTmo, sizeofPriv, features] : [])
        return words.flatMap(little32)
    }
}
