public import Linux

/// A TCP connection as a value: everything that one end of it has to know to go on, wherever that end is made again.
///
/// Both ends of the sequence space are given **after** the queues, as the kernel counts them: `receiveSequence` is the next byte
/// expected, `sendSequence` the next byte the program would write. A FIN counts for one in each.
public struct TCPConnection: Equatable, Sendable, Codable {
    /// States of RFC 9293 with the kernel's numbers (include/net/tcp_states.h).
    public enum State: UInt8, Sendable, Codable {
        case established = 1, synSent = 2, finWait1 = 4, finWait2 = 5, closed = 7, closeWait = 8, lastAck = 9, closing = 11
        /// The peer's FIN is part of `receiveSequence`.
        public var hasReceivedFIN: Bool { [.closed, .closeWait, .lastAck, .closing].contains(self) }
        /// Our FIN is part of `sendSequence`.
        public var hasSentFIN: Bool { [.finWait1, .finWait2, .closed, .lastAck, .closing].contains(self) }
    }
    /// What the handshake agreed on. The bits are TCPI_OPT_* of struct tcp_info.
    public struct Options: OptionSet, Sendable, Codable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public static let timestamps = Options(rawValue: 1), selectiveAcknowledgements = Options(rawValue: 2), windowScaling = Options(rawValue: 4)
    }
    /// TCP_REPAIR_WINDOW: what each side allows the other to send.
    public struct Window: Equatable, Sendable, Codable {
        public var lastUpdate: UInt32, sendWindow: UInt32, largestSendWindow: UInt32, receiveWindow: UInt32, receiveUpdate: UInt32
        public init(lastUpdate: UInt32, sendWindow: UInt32, largestSendWindow: UInt32, receiveWindow: UInt32, receiveUpdate: UInt32) {
            (self.lastUpdate, self.sendWindow, self.largestSendWindow) = (lastUpdate, sendWindow, largestSendWindow)
            (self.receiveWindow, self.receiveUpdate) = (receiveWindow, receiveUpdate)
        }
    }

    public var local: InetAddress
    public var peer: InetAddress
    public var state: State
    /// Bytes that came and that the program has not read.
    public var receiveQueue: [UInt8] = []
    public var receiveSequence: UInt32 = 0
    /// Bytes that the program has written and the peer has not acknowledged.
    public var sendQueue: [UInt8] = []
    public var sendSequence: UInt32 = 0
    /// How many bytes at the end of `sendQueue` were never sent.
    public var unsent = 0
    public var options: Options = []
    /// Shifts of the window that the peer announces, and of the one we announce.
    public var sendWindowScale: UInt8 = 0, receiveWindowScale: UInt8 = 0
    /// The largest segment that the peer takes.
    public var maximumSegment: UInt32 = 0
    /// The clock of our time stamps at the time it was saved (TCP_TIMESTAMP).
    public var timestamp: UInt32?
    public var window: Window?

    public init(local: InetAddress, peer: InetAddress, state: State) { (self.local, self.peer, self.state) = (local, peer, state) }

    /// Sequence number of the first byte of each queue.
    public var receiveStart: UInt32 { receiveSequence &- (state.hasReceivedFIN ? 1 : 0) &- UInt32(truncatingIfNeeded: receiveQueue.count) }
    public var sendStart: UInt32 { sendSequence &- (state.hasSentFIN ? 1 : 0) &- UInt32(truncatingIfNeeded: sendQueue.count) }
}
