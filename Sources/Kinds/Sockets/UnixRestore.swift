import Glibc
import ImageMessages
import Linux

/// Makes the tree's unix sockets again, so that getsockname(2) and getpeername(2) answer as before.
///
/// 1. Sockets that have to be born in pairs (socketpair(2)): connected ones, unless an end got its name by accept(2).
/// 2. Names: first those whose path is gone (bound, then removed again), then the others. From here on a bound socket is reached
///    through a descriptor of its file, so it does not matter what its path leads to.
/// 3. Listeners listen. An accepted socket shares its listener's name, which no bind(2) gives: it is made by connecting its peer
///    to the listener (or to a stand-in, when the listener is gone) and accepting. Connections that wait come after.
/// 4. Datagram sockets connect; one before its own target does, since a connected socket takes no other's datagrams.
/// 5. (`finish`) queues, filled from the other end; shutdown; options; owners and status flags.
package final class UnixRestore: DumpState {
    private struct Key: Hashable { var type: UInt32, name: [UInt8], directory: String }
    private struct Node {
        var entry: UnixSkEntry
        var socket: FileDescriptor?
        /// How to connect to it, once it is bound.
        var address: SocketAddress?
        /// Made by accepting from `listener` (a listening node's index) the connection of its peer.
        var acceptFrom: Int?
        var bound = false, connected = false
    }
    private var nodes: [Node] = []
    private var byInode: [UInt32: Int] = [:]
    /// The nodes that name an inode as their peer.
    private var connectedTo: [UInt32: [Int]] = [:]
    /// Nodes from here on are stand-ins for listeners that are gone; they have no entry in the images.
    private var realCount = 0
    /// The other ends of connections whose peer was closed, by node.
    private var lostPeers: [Int: FileDescriptor] = [:]
    /// How many pairs are still to be made by socketpair(2), at most.
    private var pairsToMake: [PairKind: Int] = [:]
    private struct PairKind: Hashable { var type: UInt32, stamp: StampedCalls.Stamp? }
    /// Files of bound sockets: what the addresses go through.
    private var files: [FileDescriptor] = []
    package init() {}

    private func key(_ index: Int) -> Key {
        let entry = nodes[index].entry
        return Key(type: entry.type, name: Array(entry.name), directory: entry.nameDir)
    }
    private func calls(_ context: RestoreContext) -> StampedCalls { StampedCalls(context) }
    private func peer(_ index: Int) -> Int? { nodes[index].entry.peer == 0 ? nil : byInode[nodes[index].entry.peer] }
    private func isPair(_ a: Int, _ b: Int) -> Bool { peer(a) == b && peer(b) == a && a != b }
    private func isConnection(_ entry: UnixSkEntry) -> Bool { entry.type != UnixSocket.datagram && entry.state == UnixSocket.established }
    private func isByPlugin(_ entry: UnixSkEntry) -> Bool { entry.uflags & UnixSocket.byPlugin != 0 }
    private func isExternal(_ entry: UnixSkEntry) -> Bool { entry.uflags & UnixSocket.external != 0 }
    private func refuse(_ entry: UnixSkEntry, _ cause: String, remedy: String? = nil) -> CheckpointError {
        CheckpointError("restore", .unixSocket(entry), cause, remedy: remedy)
    }

    // 0. The images' word, checked

    func take(_ entries: [UnixSkEntry], _ context: RestoreContext) throws {
        let forPlugins = Set(entries.filter { isByPlugin($0) || context.isInherited("socket:[\($0.ino)]") }.map(\.peer))
        for entry in entries {
            guard [UnixSocket.stream, UnixSocket.datagram, UnixSocket.sequenced].contains(entry.type) else {
                throw CheckpointError("restore", .image("files.img"), "unix socket \(entry.ino), field type: \(entry.type) is no type of unix socket")
            }
            guard entry.name.count <= 108 else {
                throw CheckpointError("restore", .image("files.img"), "unix socket \(entry.ino), field name: \(entry.name.count) bytes; a name has at most 108")
            }
            if isExternal(entry), !forPlugins.contains(entry.ino) {
                guard !entry.name.isEmpty else {
                    let own = entries.first { $0.peer == entry.ino }?.ino ?? 0
                    throw refuse(entry, "it was outside the tree when the tree was dumped, and has no name to connect to", remedy: "open a connection before the restore and give its number N with --inherit-fd 'fd[N]:socket:[\(own)]'")
                }
                guard context.settings.externalUnixSockets || context.settings.external.contains(where: { $0.hasPrefix("unix[") }) else {
                    throw refuse(
                        entry, "it was outside the tree when the tree was dumped", remedy: "have it there again and pass --ext-unix-sk to connect to it")
                }
            }
            guard byInode.updateValue(nodes.count, forKey: entry.ino) == nil else {
                throw CheckpointError("restore", .image("files.img"), "unix socket \(entry.ino), field ino: two sockets have this inode")
            }
            if entry.peer != 0 { connectedTo[entry.peer, default: []].append(nodes.count) }
            nodes.append(Node(entry: entry))
        }
        realCount = nodes.count
        for node in nodes where node.entry.peer != 0 && byInode[node.entry.peer] == nil && node.entry.uflags & UnixSocket.service == 0 {
            throw refuse(node.entry, "its peer, socket \(node.entry.peer), is not in the images")
        }
    }

    // 1. Sockets

    func makeSockets(_ context: RestoreContext) throws {
        var listeners = [Key: Int]()
        for index in nodes.indices where nodes[index].entry.state == UnixSocket.listening && !isExternal(nodes[index].entry) {
            listeners[key(index)] = index
        }
        var sharing = [Key: Int]()
        for index in nodes.indices where isConnection(nodes[index].entry) && !nodes[index].entry.name.isEmpty { sharing[key(index), default: 0] += 1 }

        for index in 0..<realCount where nodes[index].entry.name.isEmpty {
            if let other = peer(index), index < other, isPair(index, other), nodes[other].entry.name.isEmpty {
                pairsToMake[PairKind(type: nodes[index].entry.type, stamp: nodes[index].entry.peerStamp), default: 0] += 1
            }
        }

        let waiting = context.state(of: SocketQueue.Waiting.self)
        for index in 0..<realCount where nodes[index].socket == nil && !isExternal(nodes[index].entry) {
            let entry = nodes[index].entry
            if let inherited = try context.inherited("socket:[\(entry.ino)]") {
                nodes[index].socket = inherited
                (nodes[index].bound, nodes[index].connected) = (true, true)
                continue
            }
            try CheckpointError.about("restore", .unixSocket(entry)) {
                if isByPlugin(entry) {
                    try UnixName.makeWay(for: entry)
                    guard let made = try context.plugins.restoreUnixSocket(id: entry.ino) else {
                        throw refuse(entry, "a plugin is to connect it, and no plugin here knows it", remedy: "name the directory of the dump's plugins with --libdir")
                    }
                    nodes[index].socket = made
                    (nodes[index].bound, nodes[index].connected) = (true, true)
                } else if let other = peer(index), isPair(index, other), nodes[other].socket == nil, nodes[other].entry.type == entry.type, !isExternal(nodes[other].entry) {
                    try makePair(index, other, &listeners, sharing, context)
                } else if isConnection(entry), peer(index) == nil {
                    try makeHalf(index, &listeners, sharing, context)
                } else if entry.type == UnixSocket.datagram, let other = peer(index), nodes[other].entry.name.isEmpty, nodes[other].socket == nil {
                    try makeOneSided(index, other, context)
                } else if entry.type == UnixSocket.datagram, entry.peer == 0, entry.name.isEmpty, connectedTo[entry.ino] == nil,
                    try entry.state == UnixSocket.established || !waiting.of(entry.id, context).isEmpty {
                    // Its peer was closed: sending says ECONNREFUSED once, as it would have.
                    (nodes[index].socket, lostPeers[index]) = try calls(context).socketPair(Int32(entry.type), entry.peerStamp)
                } else {
                    nodes[index].socket = try FileDescriptor.socket(AF_UNIX, Int32(entry.type))
                }
            }
        }
    }

    /// The listener whose name the connected socket has: one of the tree, or a stand-in when several sockets got their name from
    /// one that is gone. Nil when bind(2) can give it the name.
    private func listener(for index: Int, _ listeners: inout [Key: Int], _ sharing: [Key: Int]) -> Int? {
        if nodes[index].entry.name.isEmpty { return nil }
        let key = key(index)
        if let found = listeners[key] { return found }
        guard sharing[key] ?? 0 > 1 else { return nil }
        var standIn = nodes[index].entry
        (standIn.state, standIn.peer, standIn.backlog, standIn.id) = (UnixSocket.listening, 0, 1, 0)
        listeners[key] = nodes.count
        nodes.append(Node(entry: standIn))
        return nodes.count - 1
    }

    private func makePair(_ a: Int, _ b: Int, _ listeners: inout [Key: Int], _ sharing: [Key: Int], _ context: RestoreContext) throws {
        if isConnection(nodes[a].entry) {
            for (accepted, client) in [(a, b), (b, a)] {
                guard let listener = listener(for: accepted, &listeners, sharing) else { continue }
                nodes[accepted].acceptFrom = listener
                nodes[accepted].bound = true
                nodes[client].socket = try FileDescriptor.socket(AF_UNIX, Int32(nodes[client].entry.type))
                try makeListenerIfNeeded(listener)
                return
            }
        }
        // Both ends tell of the same process; where they told of two, what the one with the name told of, which had accepted.
        let stamp = (nodes[a].entry.name.isEmpty ? nodes[b].entry.name.isEmpty : true) ? nodes[a].entry.peerStamp : nodes[b].entry.peerStamp
        (nodes[a].socket, nodes[b].socket) = try calls(context).socketPair(Int32(nodes[a].entry.type), stamp, expected: pairsToMake[.init(type: nodes[a].entry.type, stamp: stamp), default: 1])
        pairsToMake[.init(type: nodes[a].entry.type, stamp: stamp), default: 1] -= 1
        (nodes[a].connected, nodes[b].connected) = (true, true)
    }

    /// A connection whose other end was closed: that end is ours until the queue is filled.
    private func makeHalf(_ index: Int, _ listeners: inout [Key: Int], _ sharing: [Key: Int], _ context: RestoreContext) throws {
        let type = Int32(nodes[index].entry.type)
        if let listener = listener(for: index, &listeners, sharing) {
            nodes[index].acceptFrom = listener
            nodes[index].bound = true
            lostPeers[index] = try FileDescriptor.socket(AF_UNIX, type)
            try makeListenerIfNeeded(listener)
        } else {
            (nodes[index].socket, lostPeers[index]) = try calls(context).socketPair(type, nodes[index].entry.peerStamp)
            nodes[index].connected = true
        }
    }
    private func makeListenerIfNeeded(_ index: Int) throws {
        if index >= realCount && nodes[index].socket == nil {
            nodes[index].socket = try FileDescriptor.socket(AF_UNIX, Int32(nodes[index].entry.type))
        }
    }

    /// A datagram socket connected to one without a name, which is not connected back (any more): only socketpair(2) connects so.
    private func makeOneSided(_ index: Int, _ other: Int, _ context: RestoreContext) throws {
        let pair = try calls(context).socketPair(Int32(UnixSocket.datagram), nodes[index].entry.peerStamp)
        (nodes[index].socket, nodes[other].socket) = pair
        nodes[index].connected = true
        try pair.1.connect(SocketAddress(bytes: [0, 0]))  // AF_UNSPEC: no peer; the pair hears of it as an error, taken here
        _ = try pair.0.intOption(SocketOption.error)
    }

    // 2. Names

    func bindNames(_ context: RestoreContext) throws {
        let waiting = nodes.indices.filter { !nodes[$0].entry.name.isEmpty && !nodes[$0].bound }
        for index in waiting where isExternal(nodes[index].entry) { nodes[index].address = try externalAddress(nodes[index].entry) }
        for deleted in [true, false] {
            for index in waiting where nodes[index].entry.deleted == deleted {
                guard let socket = nodes[index].socket else { continue }
                let (address, file) = try UnixName.bind(socket, as: nodes[index].entry, context)
                nodes[index].address = address
                nodes[index].bound = true
                if let file { files.append(file) }
            }
        }
    }
    private func externalAddress(_ entry: UnixSkEntry) throws -> SocketAddress {
        let name = Array(entry.name)
        guard name.first != 0, entry.hasNameDir, !entry.nameDir.isEmpty else { return SocketAddress(unix: name) }
        let path = entry.nameDir + "/" + UnixName.path(name)
        guard path.utf8.count < 108 else { throw refuse(entry, "the path \(path) is too long to connect to") }
        return SocketAddress(unix: Array(path.utf8) + [0])
    }

    // 3. and 4. Connections

    func connect(_ context: RestoreContext) throws {
        var clients = [Int: Int]()
        for index in 0..<realCount where isConnection(nodes[index].entry) { if let at = peer(index) { clients[at, default: 0] += 1 } }
        for index in nodes.indices where nodes[index].entry.state == UnixSocket.listening {
            guard let socket = nodes[index].socket else { continue }
            let backlog = max(Int(min(nodes[index].entry.backlog, 1 << 20)), clients[index] ?? 0)
            try CheckpointError.about("restore", .unixSocket(nodes[index].entry)) { try calls(context).listen(socket, backlog, nodes[index].entry.peerStamp) }
        }
        for index in nodes.indices { if let listener = nodes[index].acceptFrom { try accept(index, from: listener, context) } }
        for index in 0..<realCount where isConnection(nodes[index].entry) && !nodes[index].connected && !isExternal(nodes[index].entry) {
            try connectByName(index, context)
        }
        for index in 0..<realCount where nodes[index].entry.type == UnixSocket.datagram { try connectDatagram(index, depth: 0, context) }
        for index in nodes.indices where nodes[index].entry.state == UnixSocket.listening && clients[index] ?? 0 > 0 {
            guard let socket = nodes[index].socket else { continue }
            try calls(context).listen(socket, Int(min(nodes[index].entry.backlog, 1 << 20)), nodes[index].entry.peerStamp)
        }
        for index in nodes.indices where index >= realCount { nodes[index].socket = nil }
    }

    private func accept(_ index: Int, from listener: Int, _ context: RestoreContext) throws {
        try CheckpointError.about("restore", .unixSocket(nodes[index].entry)) {
            let client = lostPeers[index] ?? peer(index).flatMap { nodes[$0].socket }
            guard let client, let door = nodes[listener].socket, let address = nodes[listener].address else {
                throw refuse(nodes[index].entry, "the listener it was accepted from could not be made")
            }
            let connector = try calls(context).connect(client, address, nodes[index].entry.peerStamp)
            // Somebody else may have connected in between: theirs is not ours to keep.
            while true {
                let accepted = try door.accept()
                if try SocketOptions.peerCredentials(of: accepted).pid == connector {
                    nodes[index].socket = accepted
                    break
                }
            }
            nodes[index].connected = true
            if let other = peer(index) { nodes[other].connected = true }
        }
    }

    private func connectByName(_ index: Int, _ context: RestoreContext) throws {
        guard let other = peer(index), let socket = nodes[index].socket else { return }
        guard let address = nodes[other].address else {
            throw refuse(nodes[index].entry, "its peer, socket \(nodes[other].entry.ino), has no name to connect to")
        }
        try CheckpointError.about("restore", .unixSocket(nodes[index].entry)) {
            let waits = nodes[other].entry.state == UnixSocket.listening && !isExternal(nodes[other].entry)
            // The owner of the socket tells the next dump who connected.
            if waits, let stamp = nodes[index].entry.peerStamp { try Files.setOwner(socket.procPath, uid: stamp.uid, gid: stamp.gid) }
            try calls(context).connect(socket, address, waits ? nodes[index].entry.peerStamp : nil)
        }
        nodes[index].connected = true
    }

    /// Those that connect to this one come first.
    private func connectDatagram(_ index: Int, depth: Int, _ context: RestoreContext) throws {
        if nodes[index].connected || isExternal(nodes[index].entry) { return }
        guard depth < realCount else { throw refuse(nodes[index].entry, "datagram sockets are connected in a circle") }
        guard let other = peer(index) else { return }
        for earlier in connectedTo[nodes[index].entry.ino] ?? [] where earlier != other && earlier != index && nodes[earlier].entry.type == UnixSocket.datagram {
            try connectDatagram(earlier, depth: depth + 1, context)
        }
        try connectByName(index, context)
    }

    func publish(_ context: RestoreContext) {
        for node in nodes[..<realCount] { if let socket = node.socket { context.made(node.entry.id, socket) } }
    }

    // 5. What is in them

    func fillQueues(_ context: RestoreContext) throws {
        let waiting = context.state(of: SocketQueue.Waiting.self)
        for index in 0..<realCount {
            if nodes[index].socket == nil { continue }
            let entry = nodes[index].entry
            let packets = try waiting.of(entry.id, context)
            if packets.isEmpty { continue }
            let stream = entry.type == UnixSocket.stream
            let bytes = packets.reduce(0) { $0 + $1.bytes.count }
            let sender: FileDescriptor, address: SocketAddress?
            if let lost = lostPeers[index] {
                (sender, address) = (lost, nil)
            } else if let other = peer(index), let peerSocket = nodes[other].socket, isConnection(entry) || isPair(index, other) {
                (sender, address) = (peerSocket, nil)
            } else if entry.type == UnixSocket.datagram, let name = nodes[index].address {
                if let other = peer(index) {  // takes datagrams of its peer only
                    guard let peerSocket = nodes[other].socket else { throw refuse(entry, "its queue can be filled by its peer only, which is outside the tree") }
                    sender = peerSocket
                } else {
                    sender = try FileDescriptor.socket(AF_UNIX, Int32(entry.type))
                }
                address = name
            } else {
                throw refuse(entry, "the images hold a queue for it, but nothing is connected to it and it has no name")
            }
            // Room for all of it at once; the sender's own options come later.
            let room = Int32(truncatingIfNeeded: min(bytes * 2 + packets.count * 1024 + 65536, 1 << 30))
            if (try? sender.setOption(SocketOption.sendBufferForce, to: room)) == nil { _ = try? sender.setOption(SocketOption.sendBuffer, to: room) }
            try SocketQueue.restore(packets, through: sender, to: address, stream: stream, subject: .unixSocket(entry), context) { name in
                self.sender(named: name, room: room)
            }
        }
    }

    /// The tree's datagram socket of that name; or one of ours that has it for as long as the datagram waits, if the name is free.
    private func sender(named name: [UInt8], room: Int32) -> FileDescriptor? {
        if let found = nodes[..<realCount].first(where: { $0.entry.type == UnixSocket.datagram && $0.socket != nil && Array($0.entry.name) == name })?.socket {
            _ = try? found.setOption(SocketOption.sendBufferForce, to: room)
            return found
        }
        guard let first = name.first, first == 0 || first == UInt8(ascii: "/"), let made = try? FileDescriptor.socket(AF_UNIX, Int32(UnixSocket.datagram)),
            (try? made.bind(SocketAddress(unix: name))) != nil
        else { return nil }
        if first != 0 { _ = try? Files.unlink(UnixName.path(name)) }
        return made
    }

    func shutDown() throws {
        lostPeers = [:]  // closes them
        for index in 0..<realCount {
            guard let socket = nodes[index].socket, nodes[index].entry.hasShutdown else { continue }
            let how: Int
            switch nodes[index].entry.shutdown {
            case .none: continue
            case .read: how = 0
            case .write: how = 1
            case .both: how = 2
            }
            try CheckpointError.about("restore", .unixSocket(nodes[index].entry)) { try socket.shutdown(how) }
        }
    }

    func setOptions() throws {
        for index in 0..<realCount {
            guard let socket = nodes[index].socket else { continue }
            let entry = nodes[index].entry
            try CheckpointError.about("restore", .unixSocket(entry)) {
                try SocketOptions.restore(entry.opts, on: socket)
                try FileOwner.restore(entry.fown, on: socket)
                // O_APPEND, O_NONBLOCK, O_ASYNC: what F_SETFL sets on a socket.
                try socket.control(F_SETFL, Int(entry.flags & 0x2c00))
            }
        }
    }

    /// Only the tasks' copies go on.
    func release() {
        for index in nodes.indices { nodes[index].socket = nil }
        files = []
    }
}
