import Glibc
public import Linux

extension TCPConnection {
    /// Reads the connection of a paused socket (`PausedSockets`). Nothing about the socket changes.
    /// - Throws: EOPNOTSUPP for a state that can't be carried over (listening, SYN-RECV).
    public init(of socket: FileDescriptor) throws(SyscallError) {
        let info = try socket.option(Repair.info, level: Repair.level, room: 104)
        guard info.count >= 8, let state = State(rawValue: info[0]) else { throw SyscallError("TCP_INFO", .fd(socket.number), EOPNOTSUPP) }
        guard let local = InetAddress(try socket.localAddress()) else { throw SyscallError("getsockname", .fd(socket.number), EAFNOSUPPORT) }
        guard let peer = InetAddress(ofPeer: socket) else { throw SyscallError("SO_PEERNAME", .fd(socket.number), EAFNOSUPPORT) }
        self.init(local: local, peer: peer, state: state)

        var waiting: Int32 = 0, written: Int32 = 0, unsent: Int32 = 0
        if state != .synSent { try socket.ioctl("SIOCINQ", 0x541b, &waiting) }
        if state != .closed && state != .synSent {  // what a closed one has not sent is gone
            try socket.ioctl("SIOCOUTQ", 0x5411, &written)
            try socket.ioctl("SIOCOUTQNSD", 0x894b, &unsent)
            // The FIN counts, as long as it is not acknowledged; FIN-WAIT-2 says that it is.
            if state.hasSentFIN && state != .finWait2 {
                if written > 0 { written -= 1 }
                if unsent > 0 { unsent -= 1 }
            }
        }
        // The program's own SO_PEEK_OFF would move what we look at.
        let offset = waiting > 0 ? (try? socket.intOption(SocketOption.peekOffset)) ?? -1 : -1
        if offset >= 0 { try socket.setOption(SocketOption.peekOffset, to: Int32(-1)) }
        defer { if offset >= 0 { _ = try? socket.setOption(SocketOption.peekOffset, to: offset) } }
        receiveSequence = try Self.select(Repair.receiveQueue, of: socket)
        receiveQueue = try Self.peek(Int(waiting), of: socket)
        sendSequence = try Self.select(Repair.sendQueue, of: socket)
        sendQueue = try Self.peek(Int(written), of: socket)
        self.unsent = Int(unsent)
        try socket.setOption(Repair.queue, level: Repair.level, to: Repair.noQueue)

        options = Options(rawValue: UInt32(info[5]) & 7)
        (sendWindowScale, receiveWindowScale) = (info[6] & 15, info[6] >> 4)
        maximumSegment = UInt32(bitPattern: try socket.intOption(Repair.maximumSegment, level: Repair.level))
        if options.contains(.timestamps) { timestamp = UInt32(bitPattern: try socket.intOption(Repair.timestamp, level: Repair.level)) }
        var words = (UInt32(0), UInt32(0), UInt32(0), UInt32(0), UInt32(0))  // struct tcp_repair_window
        if state != .synSent {
            try socket.option(Repair.window, level: Repair.level, into: &words)
            window = Window(lastUpdate: words.0, sendWindow: words.1, largestSendWindow: words.2, receiveWindow: words.3, receiveUpdate: words.4)
        }
    }

    /// Makes a queue the one that is read and asked for, and says its sequence number.
    private static func select(_ queue: Int32, of socket: FileDescriptor) throws(SyscallError) -> UInt32 {
        try socket.setOption(Repair.queue, level: Repair.level, to: queue)
        return UInt32(bitPattern: try socket.intOption(Repair.sequence, level: Repair.level))
    }

    /// The `count` bytes at the end of the selected queue. A segment that is acknowledged in part still stands whole in the send queue.
    private static func peek(_ count: Int, of socket: FileDescriptor) throws(SyscallError) -> [UInt8] {
        if count == 0 { return [] }
        var room = count + 4096
        while true {
            guard let found = try socket.receive(room: room, flags: Repair.peek) else { throw SyscallError("recvmsg", .fd(socket.number), EAGAIN) }
            if found.bytes.count == room {
                room *= 2
                continue
            }
            guard found.bytes.count >= count else { throw SyscallError("recvmsg", .fd(socket.number), EPROTO) }
            return Array(found.bytes.suffix(count))
        }
    }
}
