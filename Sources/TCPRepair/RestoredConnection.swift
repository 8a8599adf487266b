import Glibc
public import Linux

/// A connection made again on a fresh socket, in repair mode: complete, silent, unknown to its peer. `resume` lets it speak; losing the
/// value before that (or the end of this process) ends it without a word, and it can be made again.
public final class RestoredConnection {
    public let connection: TCPConnection
    public let socket: FileDescriptor
    /// SO_REUSEADDR as it shall be afterwards: repair mode forgets it.
    public var reusesAddress = false
    /// Data and FIN that were never sent go out by themselves when the socket is no longer in repair mode.
    private var unsent: [UInt8] = []
    private var finIsUnsent = false

    /// - Parameters:
    ///   - socket: fresh, of the connection's family, neither bound nor connected. Options that decide whether it may have its address
    ///     (IP_FREEBIND, IP_TRANSPARENT) are set already; TCP_CORK and SO_BINDTODEVICE are not.
    ///   - mark: SO_MARK of the packets that this sends to the socket itself, to let them through a lock (`ConnectionLock.mark`).
    public init(_ connection: TCPConnection, on socket: FileDescriptor, mark: UInt32 = ConnectionLock.mark) throws(SyscallError) {
        (self.connection, self.socket) = (connection, socket)
        try set(Repair.mode, Repair.on)
        try set(Repair.queue, Repair.sendQueue)
        // connect(2) of an unfinished connection counts its SYN.
        try set(Repair.sequence, connection.state == .synSent ? connection.sendSequence &- 1 : connection.sendStart)
        try set(Repair.queue, Repair.receiveQueue)
        try set(Repair.sequence, connection.receiveStart)
        if connection.state == .synSent {
            try set(Repair.queue, Repair.noQueue)
            try socket.bind(connection.local.socketAddress)
            return
        }
        try socket.bind(connection.local.socketAddress)
        try socket.connect(connection.peer.socketAddress)
        try setOptions()
        try fillQueues()
        try enterState(FakePeer(connection, mark: mark))
        if let window = connection.window { try setWindow(window) }
        try set(Repair.queue, Repair.noQueue)
    }

    private func set(_ option: Int32, _ value: Int32) throws(SyscallError) { try socket.setOption(option, level: Repair.level, to: value) }
    private func set(_ option: Int32, _ value: UInt32) throws(SyscallError) { try set(option, Int32(bitPattern: value)) }

    /// TCP_REPAIR_OPTIONS: pairs of an option's number (RFC 9293: MSS 2, scale 3, SACK 4, time stamps 8) and its value.
    private func setOptions() throws(SyscallError) {
        var pairs: [(UInt32, UInt32)] = [(2, connection.maximumSegment)]
        if connection.options.contains(.windowScaling) {
            pairs.append((3, UInt32(connection.sendWindowScale) | UInt32(connection.receiveWindowScale) << 16))
        }
        if connection.options.contains(.selectiveAcknowledgements) { pairs.append((4, 0)) }
        if connection.options.contains(.timestamps) { pairs.append((8, 0)) }
        let bytes = pairs.flatMap { pair in [pair.0, pair.1].flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } } }
        try socket.setOption(Repair.options, level: Repair.level, bytes: bytes)
        if let timestamp = connection.timestamp, connection.options.contains(.timestamps) { try set(Repair.timestamp, timestamp) }
    }

    /// In repair mode what is written goes into the selected queue, as received or as sent; unsent bytes wait for `resume`.
    private func fillQueues() throws(SyscallError) {
        let sent = connection.state == .closed ? [] : connection.sendQueue.dropLast(connection.unsent)
        if connection.state != .closed { unsent = Array(connection.sendQueue.suffix(connection.unsent)) }
        try makeRoom(SocketOption.receiveBuffer, SocketOption.receiveBufferForce, for: connection.receiveQueue.count)
        try makeRoom(SocketOption.sendBuffer, SocketOption.sendBufferForce, for: sent.count)
        try set(Repair.queue, Repair.receiveQueue)
        try write(connection.receiveQueue)
        try set(Repair.queue, Repair.sendQueue)
        try write(Array(sent))
    }

    /// The kernel counts its own bookkeeping too; four times the bytes has been enough for any size.
    private func makeRoom(_ plain: Int32, _ force: Int32, for count: Int) throws(SyscallError) {
        if count == 0 { return }
        let wanted = Int32(truncatingIfNeeded: min(count * 2 + 1 << 18, 1 << 30))
        if try socket.intOption(plain) / 2 >= wanted { return }
        do throws(SyscallError) { try socket.setOption(force, to: wanted) } catch { try socket.setOption(plain, to: wanted) }
    }

    private func write(_ bytes: [UInt8]) throws(SyscallError) {
        var done = 0
        while done < bytes.count {
            done += try socket.send(Array(bytes[done..<min(bytes.count, done + 1 << 16)]), flags: 0x40 /* MSG_DONTWAIT */)
        }
    }

    /// From ESTABLISHED to where it was. Our FIN is put into the queue of what was sent; the peer's, and its acknowledgement of
    /// ours, come in a packet that looks as if the peer had sent it.
    private func enterState(_ peer: FakePeer) throws(SyscallError) {
        let state = connection.state
        if state.hasReceivedFIN {
            // Room for the FIN, however full the window is.
            if var window = connection.window {
                window.receiveWindow = max(window.receiveWindow, 1 << 15)
                (window.receiveUpdate, window.lastUpdate) = (connection.receiveSequence &- 1, connection.receiveSequence &- 1)
                try setWindow(window)
            }
        }
        // CLOSING sent its FIN first; with data of its own still unsent it can't have, and becomes LAST-ACK.
        if state == .closing && unsent.isEmpty { try socket.shutdown(1) }
        if state.hasReceivedFIN {
            try peer.send(.fin, sequence: connection.receiveSequence &- 1, acknowledging: connection.sendStart)
            try reach(state == .closing && unsent.isEmpty ? .closing : .closeWait)
        }
        switch state {
        case .finWait1, .lastAck: if unsent.isEmpty { try socket.shutdown(1) } else { finIsUnsent = true }
        case .closing: finIsUnsent = !unsent.isEmpty
        case .finWait2, .closed:
            try socket.shutdown(1)
            try peer.send([], sequence: connection.receiveSequence, acknowledging: connection.sendSequence)
            try reach(state)
        case .established, .closeWait, .synSent: break
        }
    }

    /// The packet comes in through the loopback device, at once but perhaps on another processor.
    private func reach(_ state: TCPConnection.State) throws(SyscallError) {
        for _ in 0..<1000 {
            if try socket.option(Repair.info, level: Repair.level, room: 8).first == state.rawValue { return }
            usleep(1000)
        }
        throw SyscallError("TCP state \(state)", .fd(socket.number), ETIMEDOUT)
    }

    private func setWindow(_ window: TCPConnection.Window) throws(SyscallError) {
        try socket.setOption(
            Repair.window, level: Repair.level,
            to: (window.lastUpdate, window.sendWindow, window.largestSendWindow, window.receiveWindow, window.receiveUpdate))
    }

    /// Lets the connection speak again. Packets of its peer must reach it from now on.
    public func resume() throws(SyscallError) {
        try set(Repair.mode, Repair.off)
        if reusesAddress { try socket.setOption(SocketOption.reuseAddress, to: Int32(1)) }
        if connection.state == .synSent { return try beginAgain() }
        if !unsent.isEmpty {
            let size = try socket.intOption(SocketOption.sendBuffer), lock = try? socket.intOption(SocketOption.bufferLock)
            try makeRoom(SocketOption.sendBuffer, SocketOption.sendBufferForce, for: connection.sendQueue.count)
            try write(unsent)
            _ = try? socket.setOption(SocketOption.sendBufferForce, to: size / 2)
            if let lock { _ = try? socket.setOption(SocketOption.bufferLock, to: lock & 3) }
        }
        if finIsUnsent { try socket.shutdown(1) }
    }

    /// The same SYN as before, which the peer takes for a repetition.
    private func beginAgain() throws(SyscallError) {
        let flags = try socket.control(F_GETFL)
        try socket.control(F_SETFL, flags | Int(O_NONBLOCK))
        defer { _ = try? socket.control(F_SETFL, flags) }
        do throws(SyscallError) { try socket.connect(connection.peer.socketAddress) }
        catch { if error.errno.rawValue != EINPROGRESS { throw error } }
    }
}
