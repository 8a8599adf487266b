import Glibc
import ImageMessages
import Images
import Linux
import TCPRepair

/// The connections of one restore: made in repair mode, let go when nothing can fail any more.
package final class TCPRestore: DumpState {
    private var connections: [(connection: RestoredConnection, entry: InetSkEntry)] = []
    /// What a new socket has.
    private var usual: TCPOptions.KeepAlive?
    package init() {}

    func make(_ entries: [InetSkEntry], _ context: RestoreContext) throws {
        PacketLock.liftBeforeRun(context)
        context.beforeRun.append { [unowned context] in self.release(context) }
        for entry in entries {
            try CheckpointError.about("restore", .inetSocket(entry)) {
                if let inherited = try context.inherited("socket:[\(entry.ino)]") { return context.made(entry.id, inherited) }
                if try Self.comesBackClosed(entry, context) { return try makeClosed(entry, context) }
                try makeConnection(entry, context)
            }
        }
    }

    /// Whether the program finds the connection closed; throws when the options say neither.
    static func comesBackClosed(_ entry: InetSkEntry, _ context: RestoreContext) throws -> Bool {
        let saved = context.images.exists("tcp-stream-\(String(entry.ino, radix: 16)).img")
        if context.settings.tcpClose || (entry.state == InetState.closed && !saved) { return true }
        guard context.settings.tcpEstablished else {
            throw CheckpointError(
                "restore", .inetSocket(entry), "it is a TCP connection (\(InetState.name(entry.state)))",
                remedy: saved ? "bring it back with --tcp-established, or closed with --tcp-close" : "bring it back closed with --tcp-close, as it was dumped")
        }
        guard saved else {
            throw CheckpointError("restore", .inetSocket(entry), "it was dumped with --tcp-close", remedy: "bring it back closed with --tcp-close")
        }
        return false
    }

    /// Whether a connection can be made here: its port may have a listener, so only the address is asked for.
    static func check(_ entry: InetSkEntry, _ context: RestoreContext) throws {
        if try comesBackClosed(entry, context) { return }
        let (socket, inherited) = try InetSocket.create(entry, context, connected: true)
        var address = entry.local
        address.port = 0
        if inherited { return }
        try CheckpointError.about("restore", .inetSocket(entry), remedy: "give this host the address \(address.host)") { try socket.bind(address.socketAddress) }
    }

    /// As after a reset by the peer: reading finds the end, writing fails with EPIPE.
    private func makeClosed(_ entry: InetSkEntry, _ context: RestoreContext) throws {
        let (socket, _) = try InetSocket.create(entry, context)
        // ENOTCONN, but it has its effect (net/ipv4/af_inet.c, inet_shutdown).
        _ = try? socket.shutdown(2)
        context.made(entry.id, socket)
    }

    private func makeConnection(_ entry: InetSkEntry, _ context: RestoreContext) throws {
        let connection = try TCPConnection(entry, context.images)
        let (made, socket) = try make(connection, entry, context)
        made.reusesAddress = entry.opts.reuseaddr
        let usual = try self.usual ?? TCPOptions.KeepAlive(of: socket)
        self.usual = usual
        try TCPOptions.restore(entry, on: socket, where: usual)
        // shutdown(2) for reading leaves no trace in the state of the connection.
        if entry.hasShutdown, entry.shutdown == .read || entry.shutdown == .both, !connection.state.hasReceivedFIN { try socket.shutdown(0) }
        connections.append((made, entry))
        context.made(entry.id, socket)
    }

    private func make(_ connection: TCPConnection, _ entry: InetSkEntry, _ context: RestoreContext, again: Bool = false) throws -> (RestoredConnection, FileDescriptor) {
        let (socket, _) = try InetSocket.create(entry, context, connected: true)
        do throws(SyscallError) { return (try RestoredConnection(connection, on: socket), socket) } catch {
            // Of a tree that was left stopped and then killed something may be left that still speaks to the peer, behind the lock.
            if !again, error.errno.rawValue == EADDRNOTAVAIL, (try? SocketDiag.destroyOrphan(from: entry.local, to: entry.peer)) == true {
                return try make(connection, entry, context, again: true)
            }
            let remedy: String? = switch error.errno.rawValue {
            case EPERM: "run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
            case EADDRNOTAVAIL: "give this host the address \(entry.local.host), or end what still has the connection (ss -tn shows it)"
            case ETIMEDOUT: "let packets with the mark 0x\(String(ConnectionLock.mark, radix: 16)) through the loopback interface, which a firewall holds back"
            case EADDRINUSE: "end the program that has this connection (ss -tn shows it)"
            default: nil
            }
            throw CheckpointError("restore", .inetSocket(entry), "\(error)", remedy: remedy, errno: error.errno)
        }
    }

    /// Nothing can fail any more, and packets come through: the connections speak.
    private func release(_ context: RestoreContext) {
        for (connection, entry) in connections {
            do throws(SyscallError) { try connection.resume() } catch { context.log.error("\(CheckpointError.Subject.inetSocket(entry)): \(error)") }
        }
        connections = []
    }
}

extension TCPConnection {
    /// The values of the images, which have to agree with each other.
    init(_ entry: InetSkEntry, _ images: ImageDirectory) throws {
        let (stream, received, sent) = try images.tcpStreamContent(inode: entry.ino)
        func refuse(_ why: String) -> CheckpointError { CheckpointError("restore", .image(ImageFile<TcpStreamEntry>.tcpStream.name(entry.ino)), why) }
        guard let state = State(rawValue: UInt8(truncatingIfNeeded: entry.state)), entry.state < 12 else {
            throw CheckpointError("restore", .inetSocket(entry), "a connection in state \(InetState.name(entry.state)) can't be restored")
        }
        guard stream.unsqLen <= stream.outqLen else { throw refuse("unsq_len: \(stream.unsqLen) bytes were not sent of \(stream.outqLen)") }
        guard stream.sndWscale <= 14, stream.rcvWscale <= 14 else { throw refuse("snd_wscale, rcv_wscale: above 14 (RFC 7323)") }
        self.init(local: entry.local, peer: entry.peer, state: state)
        (receiveQueue, sendQueue) = (received, sent)
        (receiveSequence, sendSequence, unsent) = (stream.inqSeq, stream.outqSeq, Int(stream.unsqLen))
        options = Options(rawValue: stream.optMask & 7)
        (sendWindowScale, receiveWindowScale) = (UInt8(stream.sndWscale), UInt8(stream.rcvWscale))
        maximumSegment = stream.mssClamp
        if stream.hasTimestamp { timestamp = stream.timestamp }
        if stream.hasSndWnd && stream.hasRcvWnd {
            window = Window(
                lastUpdate: stream.sndWl1, sendWindow: stream.sndWnd, largestSendWindow: stream.maxWindow, receiveWindow: stream.rcvWnd,
                receiveUpdate: stream.rcvWup)
        }
    }
}
