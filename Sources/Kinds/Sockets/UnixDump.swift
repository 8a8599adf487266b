import Glibc
import ImageMessages
import Linux

/// What the dump of unix sockets keeps: the kernel's list of them, and which of them the tree holds.
package final class UnixDump: DumpState {
    private var sockets: [UInt32: UnixSocketInfo] = [:]
    /// For each client that waits to be accepted, the listener it waits at.
    private var waitingAt: [UInt32: UInt32] = [:]
    private var listed = false
    /// The sockets that were saved, by inode.
    var dumped: [UInt32: (subject: CheckpointError.Subject, id: UInt32)] = [:]
    /// Inode of a peer, and who needs it.
    private var peers: [(inode: UInt32, of: UnixSocketInfo, subject: CheckpointError.Subject)] = []
    /// Inodes of all sockets that descriptors of the tree refer to; looked for only where a plugin takes sockets.
    private var held: Set<UInt32>?
    /// Peers outside to which a plugin connects.
    private var reachedByPlugins: Set<UInt32> = []
    package init() {}

    /// What the kernel lists of the socket: in our network namespace, or in the socket's own (SIOCGSKNS, net/socket.c).
    func info(of file: OpenFile) throws -> UnixSocketInfo {
        if !listed {
            listed = true
            add(try SocketDiag.unixSockets())
        }
        let inode = UInt32(truncatingIfNeeded: file.status.inode)
        if let found = sockets[inode] { return found }
        let namespace = FileDescriptor(owning: Int32(try file.descriptor.ioctl("SIOCGSKNS", 0x894c)))
        add(try SocketDiag.unixSockets(in: namespace))
        if let found = sockets[inode] { return found }
        throw CheckpointError("dump", file.subject, "the kernel's list of unix sockets (sock_diag) lacks it", remedy: "load the kernel module unix_diag")
    }

    private func add(_ list: [UnixSocketInfo]) {
        for one in list {
            sockets[one.inode] = one
            for client in one.waiting where client != 0 { waitingAt[client] = one.inode }
        }
    }

    /// The inode that the image names as peer: the other end, or the listener at which a connection waits.
    func peer(of info: UnixSocketInfo, _ file: OpenFile, _ context: DumpContext) throws -> UInt32 {
        if let peer = info.peer, peer != 0 {
            peers.append((peer, info, file.subject))
            return peer
        }
        guard UInt32(info.type) != UnixSocket.datagram, let listener = waitingAt[info.inode] else { return 0 }
        var unread: Int32 = 0
        try CheckpointError.about("dump", file.subject) { _ = try file.descriptor.ioctl("SIOCOUTQ", 0x5411, &unread) }
        if unread != 0 {
            throw CheckpointError(
                "dump", file.subject, "it has sent data into a connection that nobody accepted yet (listener: socket \(listener)), and only accept(2) gives that out",
                remedy: "dump again when the listener has accepted it")
        }
        peers.append((listener, info, file.subject))
        return listener
    }

    /// Whether its peer is outside and a plugin will connect it again. Its queue is then the plugin's business, too.
    func isPlugins(_ info: UnixSocketInfo, peer: UInt32, _ file: OpenFile, _ context: DumpContext) throws -> Bool {
        guard peer != 0, context.plugins.has(.dumpUnixSocket) else { return false }
        let held = self.held ?? Set(context.processes.flatMap { process in
            ((try? Proc.descriptors(of: process)) ?? []).compactMap { number in
                guard let link = try? Files.link("/proc/\(process)/fd/\(number)"), link.hasPrefix("socket:[") else { return nil }
                return UInt32(link.dropFirst(8).dropLast())
            }
        })
        self.held = held
        if held.contains(peer) { return false }
        let isTaken = try CheckpointError.about("dump", file.subject) { try context.plugins.dump(unixSocket: file.descriptor, id: info.inode) }
        if isTaken { reachedByPlugins.insert(peer) }
        return isTaken
    }

    /// Connections that wait at the tree's listeners have to come from the tree.
    func checkListeners(_ context: DumpContext) throws {
        for (inode, saved) in dumped.sorted(by: { $0.value.id < $1.value.id }) {
            guard let waiting = sockets[inode]?.waiting else { continue }
            for client in waiting where dumped[client] == nil {
                if context.settings.skipInFlight {
                    context.log.warn("\(saved.subject): a connection that waits to be accepted is left out")
                    continue
                }
                try context.refuse(CheckpointError(
                    "dump", saved.subject, client == 0
                        ? "a connection waits to be accepted whose client is gone already"
                        : "a connection of socket \(client), which is outside the tree, waits to be accepted",
                    remedy: "leave such connections out with --skip-in-flight", option: "--skip-in-flight"))
            }
        }
    }

    /// Entries of peers outside the tree, where the options allow them (as CRIU: only their name is kept, and connected to again).
    func externalPeers(_ context: DumpContext) throws -> [UnixSkEntry] {
        var entries = [UnixSkEntry](), seen = Set<UInt32>()
        for (inode, info, subject) in peers where dumped[inode] == nil {
            try context.attempt {
                let peer = sockets[inode]
                let named = context.settings.external.contains { $0 == "unix[\(info.inode)]" || $0 == "unix[\(inode)]" }
                let title = "socket \(inode)" + (peer?.name.map { " (\(UnixName.shown($0)))" } ?? "")
                let isPlugins = reachedByPlugins.contains(inode)
                guard named || isPlugins || context.settings.externalUnixSockets else {
                    if context.mayBePlugins(.dumpUnixSocket, "", subject) { return }
                    throw CheckpointError(
                        "dump", subject, "its peer, \(title), is outside the tree",
                        remedy: "dump from a common parent of both, or let the restore connect to it by name: --external unix[\(info.inode)]",
                        option: "--external unix[\(info.inode)]")
                }
                // Without a name a restore needs the socket itself from outside (--inherit-fd).
                let mayLackName = isPlugins || context.settings.external.contains("unix[\(info.inode)]")
                guard let peer, let name = peer.name ?? (mayLackName ? [] : nil), !name.isEmpty || mayLackName else {
                    throw CheckpointError(
                        "dump", subject, "its peer, \(title), is outside the tree and has no name to connect to again",
                        remedy: "give the socket to the restore from outside: --external unix[\(info.inode)] here, --inherit-fd 'fd[N]:socket:[\(info.inode)]' there")
                }
                if !seen.insert(inode).inserted { return }
                var entry = UnixSkEntry()
                entry.id = context.newFileID()
                entry.ino = inode
                entry.type = UInt32(peer.type)
                entry.state = UnixSocket.listening
                entry.flags = UInt32(O_RDWR)
                entry.uflags = UnixSocket.external
                entry.backlog = 0
                entry.peer = 0
                entry.fown.uid = 0; entry.fown.euid = 0; entry.fown.signum = 0; entry.fown.pidType = 0; entry.fown.pid = 0
                entry.opts.soSndbuf = 0; entry.opts.soRcvbuf = 0
                entry.opts.soSndTmoSec = 0; entry.opts.soSndTmoUsec = 0; entry.opts.soRcvTmoSec = 0; entry.opts.soRcvTmoUsec = 0
                entry.name = .init(imageBytes: name)
                entry.nsID = context.networkNamespaceID
                entries.append(entry)
            }
        }
        return entries
    }
}
