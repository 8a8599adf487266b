import Glibc
import ImageMessages
import Linux
import TCPRepair

/// The connections of one dump. They are saved when everything else is, in the end under a lock that holds their packets back:
///
/// 1. their entries in files.img: options, which stand still with the tree, and would be others in repair mode;
/// 2. lock: from here to the restore nothing reaches them, and nothing that they send reaches anybody;
/// 3. all into repair mode, queues and numbers into tcp-stream images, all out of it: milliseconds, watched by a guard (`PausedSockets`);
/// 4. what becomes of the lock then, `PacketLock` says; when the tree is to be killed, the sockets, of which we hold the last descriptors, are closed in repair
///    mode, which tells the peers nothing.
package final class TCPDump: DumpState {
    private var files: [OpenFile] = []
    package init() {}

    func take(_ file: OpenFile, _ peer: InetAddress, _ context: DumpContext) throws {
        let state = try file.descriptor.option(TCPOptions.info, level: TCPOptions.level, room: 8).first ?? 0
        if !context.settings.tcpEstablished && !context.settings.tcpClose && state != InetState.closed {
            let local = InetAddress(try file.descriptor.localAddress())
            throw CheckpointError(
                "dump", file.subject, "it is a TCP connection from \(local.map { "\($0)" } ?? "?") to \(peer) (\(InetState.name(UInt32(state))))",
                remedy: "save it with --tcp-established, or leave it out with --tcp-close (the program then finds it closed)",
                option: "--tcp-established")
        }
        if context.purpose == .explain { return }  // nothing more can be told of a connection that goes on
        if files.isEmpty { context.late.append { [unowned context] in try self.save(context) } }
        files.append(file)
    }

    private func save(_ context: DumpContext) throws {
        // A tree that only stands (check) is not to lose packets.
        let keeps = context.settings.tcpEstablished && !context.settings.tcpClose
        let fresh = InetDump()
        var entries = try files.map { try InetSocket.dump($0, context, list: fresh).isk }
        if keeps { try hold(context) }
        if keeps {
            let began = Clock.monotonic()
            let paused = try CheckpointError.about("pause", .object("the tree's TCP connections"), remedy: "run as root, or with CAP_NET_ADMIN") {
                try PausedSockets(files.map(\.descriptor))
            }
            for at in files.indices { try save(files[at], &entries[at], context) }
            paused.resume()
            context.log.info("\(files.count) TCP connections saved, \((Clock.monotonic() - began) / 1000) µs in repair mode")
        }
        for entry in entries {
            var file = FileEntry()
            (file.type, file.id, file.isk) = (.inetsk, entry.id, entry)
            try context.add(file)
        }
        if context.purpose == .dump, keeps, context.settings.ending == .kill { endQuietly(context) }
        if context.settings.ending == .leaveRunning || context.purpose != .dump { context.state(of: PacketLock.self).release(context) }
    }

    private func save(_ file: OpenFile, _ entry: inout InetSkEntry, _ context: DumpContext) throws {
        let connection: TCPConnection
        do throws(SyscallError) { connection = try TCPConnection(of: file.descriptor) } catch {
            let state = InetState.name(entry.state)
            let cause = error.errno.rawValue == EOPNOTSUPP ? "a connection in state \(state) can't be saved" : "\(error)"
            throw CheckpointError("dump", .inetSocket(entry), cause, remedy: "dump again, or leave connections out with --tcp-close", errno: error.errno)
        }
        // Until the lock the peer could still end it.
        entry.state = UInt32(connection.state.rawValue)
        if connection.state.hasReceivedFIN { entry.shutdown = SkShutdown(rawValue: entry.shutdown.rawValue | SkShutdown.read.rawValue) ?? entry.shutdown }
        try context.images.write(
            "tcp-stream-\(String(entry.ino, radix: 16)).img", TcpStreamEntry(connection), payload: connection.receiveQueue + connection.sendQueue)
    }

    private func hold(_ context: DumpContext) throws {
        let connections = try files.compactMap { file -> ConnectionLock.Connection? in
            guard let local = InetAddress(try file.descriptor.localAddress()), let peer = InetAddress(ofPeer: file.descriptor) else { return nil }
            return .init(local: local, peer: peer)
        }
        try context.state(of: PacketLock.self).hold(connections, context)
    }

    /// The dump ends with the tree's death: the peers are not to hear of it.
    private func endQuietly(_ context: DumpContext) {
        context.afterKill.append { [unowned context] in
            if let paused = try? PausedSockets(self.files.map(\.descriptor)) {
                paused.abandon()
            } else { context.log.warn("the TCP connections could not be closed in silence") }
            self.files = []
        }
    }
}

extension TcpStreamEntry {
    init(_ connection: TCPConnection) {
        self.init()
        (inqLen, inqSeq) = (UInt32(connection.receiveQueue.count), connection.receiveSequence)
        (outqLen, outqSeq, unsqLen) = (UInt32(connection.sendQueue.count), connection.sendSequence, UInt32(connection.unsent))
        optMask = connection.options.rawValue
        sndWscale = UInt32(connection.sendWindowScale)
        if connection.options.contains(.windowScaling) { rcvWscale = UInt32(connection.receiveWindowScale) }
        mssClamp = connection.maximumSegment
        if let value = connection.timestamp { timestamp = value }
        if let window = connection.window {
            (sndWl1, sndWnd, maxWindow) = (window.lastUpdate, window.sendWindow, window.largestSendWindow)
            (rcvWnd, rcvWup) = (window.receiveWindow, window.receiveUpdate)
        }
    }
}
