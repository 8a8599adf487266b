package import ImageMessages
package import Linux

/// What UDP, raw and ping sockets have in common: an address, perhaps a peer, memberships in multicast groups.
package protocol ConnectionlessProtocol: InetProtocol {
    /// What only its sockets have.
    static func save(_ file: OpenFile, _ info: InetSocketInfo?, _ entry: inout InetSkEntry) throws
    /// What has to be set before packets come in.
    static func prepare(_ socket: FileDescriptor, _ entry: InetSkEntry) throws
}

extension ConnectionlessProtocol {
    package static func save(_ file: OpenFile, _ info: InetSocketInfo?, _ entry: inout InetSkEntry) throws {}
    package static func prepare(_ socket: FileDescriptor, _ entry: InetSkEntry) throws {}

    package static func extras(_ entry: InetSkEntry) -> [ExtraOptions.Option] {
        ExtraOptions.inet(family: entry.family, type: entry.type, protocol: entry.proto) + MulticastMemberships.options
    }

    package static func dump(_ file: OpenFile, _ info: InetSocketInfo?, _ entry: inout InetSkEntry, _ context: DumpContext) throws {
        entry.backlog = 0
        // Before what locks the filter, which is the last of the options.
        entry.opts.extra.insert(contentsOf: try context.state(of: MulticastMemberships.self).dump(file.descriptor, family: entry.family), at: 0)
        try DatagramQueue.dump(file, entry, context)
        try save(file, info, &entry)
    }

    package static func make(_ entries: [InetSkEntry], _ context: RestoreContext) throws { try makeAll(entries, context) }
    static func makeAll(_ entries: [InetSkEntry], _ context: RestoreContext) throws {
        for entry in entries {
            try CheckpointError.about("restore", .inetSocket(entry)) {
                let (socket, inherited) = try InetSocket.create(entry, context)
                context.made(entry.id, socket)
                if inherited { return }
                try prepare(socket, entry)
                try allowForeignAddress(socket, entry)
                try InetSocket.bind(socket, entry)
                if entry.opts.soBroadcast { try socket.setOption(SocketOption.broadcast, to: Int32(1)) }  // or no such peer is accepted
                if entry.state == InetState.established || entry.dstPort != 0 || !entry.peer.isAny { try socket.connect(entry.peer.socketAddress) }
            }
        }
    }

    /// IP_TRANSPARENT, IPV6_TRANSPARENT: without it the address of a transparent proxy can't be bound.
    private static func allowForeignAddress(_ socket: FileDescriptor, _ entry: InetSkEntry) throws {
        let options = entry.opts.extra.filter { ($0.level, $0.number) == (0, 19) || ($0.level, $0.number) == (41, 75) }
        try ExtraOptions.restore(options, extras(entry), on: socket)
    }

    /// The queues first: filters, buffers and shutdown(2) would keep datagrams out.
    package static func finish(_ entries: [InetSkEntry], _ context: RestoreContext) throws {
        for entry in entries where !context.isInherited("socket:[\(entry.ino)]") {
            try CheckpointError.about("restore", .inetSocket(entry)) {
                let socket = try context.requireDescriptor(of: entry.id)
                try DatagramQueue.restore(entry, socket, among: entries, context)
                if entry.hasShutdown, entry.shutdown != .none { try socket.shutdown(Int(entry.shutdown.rawValue) - 1) }
                try InetSocket.complete(socket, entry)
            }
        }
    }
}
