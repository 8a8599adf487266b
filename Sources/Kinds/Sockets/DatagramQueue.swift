import Glibc
import ImageMessages
import Linux

/// Datagrams that wait in a UDP socket to be read, with their senders (CRIU drops them): packets of sk-queues.img whose `id_for` is an
/// inet socket. A restore sends them again from their senders' addresses (IP_TRANSPARENT, ip(7)), over the loopback interface.
enum DatagramQueue {
    /// What can't be seen without taking it is left out: raw and ping sockets know no SO_PEEK_OFF (socket(7)).
    static func dump(_ file: OpenFile, _ entry: InetSkEntry, _ context: DumpContext) throws {
        guard try file.descriptor.queuedMemory() > 0 else { return }
        guard UDP.isFor(type: entry.type, number: entry.proto), entry.shutdown != .read, entry.shutdown != .both else {
            return context.log.warn("\(file.subject): the packets that wait in it to be read are left out")
        }
        try SocketQueue.dump(file.descriptor, id: file.id, stream: false, ended: false, subject: file.subject, context)
    }

    static func restore(_ entry: InetSkEntry, _ socket: FileDescriptor, among entries: [InetSkEntry], _ context: RestoreContext) throws {
        let packets = try context.state(of: SocketQueue.Waiting.self).of(entry.id, context)
        if packets.isEmpty { return }
        let room = Int32(truncatingIfNeeded: min(packets.reduce(0) { $0 + $1.bytes.count * 2 + 4096 }, 1 << 30))
        _ = try? socket.setOption(SocketOption.receiveBufferForce, to: room)
        var lost = 0
        for (packet, bytes) in packets {
            do { try send(bytes, from: packet, to: entry, socket, among: entries, context) } catch {
                lost += 1
                if lost == 1 { context.log.warn("\(CheckpointError.Subject.inetSocket(entry)): a datagram that waited in it can't be sent again: \(error)") }
            }
        }
        if lost > 0 { context.log.warn("\(CheckpointError.Subject.inetSocket(entry)): \(lost) of \(packets.count) datagrams that waited in it are lost") }
    }

    private static func send(_ bytes: [UInt8], from packet: SkPacketEntry, to entry: InetSkEntry, _ socket: FileDescriptor, among entries: [InetSkEntry], _ context: RestoreContext) throws {
        // The image has the sender's address as recvfrom(2) gave it, without its family, which is the socket's own.
        guard let from = InetAddress(SocketAddress(bytes: [UInt8(truncatingIfNeeded: entry.family), 0] + Array(packet.sender))) else {
            throw CheckpointError("restore", .image(SocketQueue.image), "a datagram without its sender's address")
        }
        var to = entry.local
        if to.isAny {
            let v4 = entry.family == InetAddress.ipv4 || from.unmapped.family == InetAddress.ipv4
            let loopback = InetAddress(text: v4 ? (entry.family == InetAddress.ipv4 ? "127.0.0.1" : "::ffff:127.0.0.1") : "::1")!
            to = InetAddress(family: loopback.family, bytes: loopback.bytes, port: to.port)
        }
        let sender = try FileDescriptor.socket(Int32(entry.family), Int32(entry.type), Int32(entry.proto))
        try sender.setOption(SocketOption.reuseAddress, to: Int32(1))
        let v4 = entry.family == InetAddress.ipv4
        try sender.setOption(v4 ? 19 : 75, level: v4 ? InetOption.ip : InetOption.ipv6, to: Int32(1))  // IP_TRANSPARENT, IPV6_TRANSPARENT
        let before = try socket.queuedMemory()
        // Where several sockets share an address the kernel picks one: that which is connected to the sender comes first.
        let shared = entry.dstPort == 0 && entries.contains { $0.id != entry.id && $0.srcPort == entry.srcPort && $0.dstPort == 0 }
        do throws(SyscallError) {
            try sender.bind(from.socketAddress)
            if shared { try socket.connect(from.socketAddress) }
            defer { if shared { _ = try? socket.connect(SocketAddress(bytes: [UInt8](repeating: 0, count: 16))) } }  // AF_UNSPEC ends it
            try sender.send(bytes, to: to.socketAddress)
            // Over the loopback interface a datagram is there at once, or a moment later.
            for _ in 0..<200 where try socket.queuedMemory() == before { usleep(50) }
        } catch {
            guard error.call == "bind", error.errno.rawValue == EADDRINUSE, let other = entries.first(where: { $0.srcPort == UInt32(from.port) && ($0.local.bytes == from.bytes || $0.local.isAny) }) else { throw error }
            try context.requireDescriptor(of: other.id).send(bytes, to: other.dstPort == 0 ? to.socketAddress : nil)
        }
        if try socket.queuedMemory() == before { throw CheckpointError("restore", .inetSocket(entry), "a datagram from \(from) sent again did not arrive") }
    }
}
