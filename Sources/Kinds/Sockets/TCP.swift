import Glibc
package import ImageMessages
package import Linux

/// TCP sockets (tcp(7)): unbound, bound, listening, and connections (`TCPDump`, `TCPRestore`).
package enum TCP: InetProtocol {
    static let number: UInt32 = 6

    package static func isFor(type: UInt32, number: UInt32) -> Bool { type == UInt32(SOCK_STREAM.rawValue) && number == Self.number }

    package static func extras(_ entry: InetSkEntry) -> [ExtraOptions.Option] {
        let connected = entry.dstPort != 0 && entry.state != InetState.listening
        // Multicast is nothing for TCP, and accept(2) leaves other values there than socket(2).
        let multicast: [Int32: Set<Int32>] = [InetOption.ip: [32, 33, 34, 49], InetOption.ipv6: [17, 18, 19, 29]]
        let common = ExtraOptions.inet(family: entry.family, type: entry.type, protocol: entry.proto).filter { multicast[$0.level]?.contains($0.number) != true }
        return common + (connected ? [] : TCPOptions.unconnected) + TCPOptions.extra
    }

    /// Connections are saved together, at the end: the shortest time between the lock and the restore.
    package static func postpones(_ file: OpenFile, _ context: DumpContext) throws -> Bool {
        guard let peer = InetAddress(ofPeer: file.descriptor), peer.port != 0 else { return false }
        try context.state(of: TCPDump.self).take(file, peer, context)
        return true
    }

    package static func dump(_ file: OpenFile, _ info: InetSocketInfo?, _ entry: inout InetSkEntry, _ context: DumpContext) throws {
        entry.tcpOpts = try TCPOptions.dump(file.descriptor)
        if entry.state == InetState.listening {
            // Connections that wait to be accepted: only accept(2) gives them out.
            if let waiting = info?.readQueue, waiting > 0 {
                guard context.settings.skipInFlight else {
                    throw CheckpointError(
                        "dump", file.subject, "\(waiting) connections to \(entry.local) wait to be accepted, and only accept(2) gives them out",
                        remedy: "dump again when the program has accepted them, or leave them out with --skip-in-flight", option: "--skip-in-flight")
                }
                context.log.warn("\(file.subject): \(waiting) connections to \(entry.local) that wait to be accepted are left out")
            }
        } else if entry.dstPort == 0 {
            entry.backlog = 0
            // sock_diag does not list what is left of a connection that is over; poll(2) says whether it ever was one, or was shut down.
            let hangUp: Int16 = 0x2000  // POLLRDHUP
            if info == nil, let events = try? file.descriptor.poll(for: hangUp), events & hangUp != 0 { entry.shutdown = .both }
        }
    }

    /// All are bound before any listens: a listener does not let others have its port. Connections come last; in repair mode they may
    /// have a port that somebody listens on.
    package static func make(_ entries: [InetSkEntry], _ context: RestoreContext) throws {
        var made = [(socket: FileDescriptor, entry: InetSkEntry)]()
        let unconnected = entries.filter { $0.dstPort == 0 || $0.state == InetState.listening }
        let ports = Dictionary(unconnected.map { ($0.srcPort, 1) }, uniquingKeysWith: +)
        for entry in unconnected {
            try CheckpointError.about("restore", .inetSocket(entry)) {
                let (socket, inherited) = try InetSocket.create(entry, context)
                context.made(entry.id, socket)
                if inherited { return }
                // Those that share a port had SO_REUSEPORT once, whatever it says now.
                if entry.srcPort != 0, ports[entry.srcPort] ?? 0 > 1 { try socket.setOption(SocketOption.reusePort, to: Int32(1)) }
                try InetSocket.bind(socket, entry)
                made.append((socket, entry))
            }
        }
        for (socket, entry) in made {
            try CheckpointError.about("restore", .inetSocket(entry), remedy: "end the program that listens on \(entry.local)") {
                try TCPOptions.restore(entry, on: socket)
                if entry.state == InetState.listening { try socket.listen(Int(entry.backlog)) }
                // ENOTCONN, but it has its effect (net/ipv4/af_inet.c, inet_shutdown).
                if entry.shutdown == .both { _ = try? socket.shutdown(2) }
            }
        }
        let connections = entries.filter { $0.dstPort != 0 && $0.state != InetState.listening }
        if !connections.isEmpty { try context.state(of: TCPRestore.self).make(connections, context) }
    }

    package static func finish(_ entries: [InetSkEntry], _ context: RestoreContext) throws {
        for entry in entries where !context.isInherited("socket:[\(entry.ino)]") {
            try CheckpointError.about("restore", .inetSocket(entry)) {
                try InetSocket.complete(try context.requireDescriptor(of: entry.id), entry)
            }
        }
    }
}
