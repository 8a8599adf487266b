/// What the kernel says of one packet socket (sock_diag(7), net/packet/diag.c).
public struct PacketSocketInfo: Equatable, Sendable {
    public struct Membership: Equatable, Sendable {
        public var interface: UInt32, type: UInt16, address: [UInt8]
        /// How often it was joined.
        public var count: UInt32
    }
    /// struct packet_diag_ring, packet(7).
    public struct Ring: Equatable, Sendable {
        public var blockSize: UInt32, blocks: UInt32, frameSize: UInt32, frames: UInt32, retireTimeout: UInt32, privateSize: UInt32, features: UInt32
        public var bytes: UInt64 { UInt64(blockSize) * UInt64(blocks) }
    }
    public var inode: UInt32 = 0
    /// ETH_P_*, in host order.
    public var `protocol`: UInt16 = 0
    public var interface: UInt32 = 0, version: UInt32 = 0, reserve: UInt32 = 0, copyThreshold: UInt32 = 0, timestamp: UInt32 = 0
    /// PDI_RUNNING 1, AUXDATA 2, ORIGDEV 4, VNETHDR 8, LOSS 16.
    public var flags: UInt32 = 0
    public var memberships: [Membership] = []
    public var receiveRing: Ring?, transmitRing: Ring?
    /// PACKET_FANOUT as setsockopt(2) takes it; nil outside any group.
    public var fanout: UInt32?
}

extension SocketDiag {
    /// Every packet socket of a network namespace.
    public static func packetSockets(in namespace: FileDescriptor? = nil) throws(SyscallError) -> [PacketSocketInfo] {
        // struct packet_diag_req: family AF_PACKET, protocol 0, padding, inode, what to show, cookie.
        // PACKET_SHOW_INFO 1, MCLIST 2, RING_CFG 4, FANOUT 8.
        let request: [UInt8] = [17, 0, 0, 0] + little32(0) + little32(1 | 2 | 4 | 8) + little32(0) + little32(0)
        var found = [PacketSocketInfo]()
        try dump(request, in: namespace) { if let one = parsePacket($0) { found.append(one) } }
        return found
    }

    /// struct packet_diag_msg (16 bytes: family, type, protocol, inode, cookie) and its attributes. Nil when it is cut short.
    static func parsePacket(_ message: ArraySlice<UInt8>) -> PacketSocketInfo? {
        let bytes = Array(message)
        guard bytes.count >= 16, bytes[0] == 17 else { return nil }
        var info = PacketSocketInfo()
        (info.protocol, info.inode) = (UInt16(truncatingIfNeeded: bytes.word(UInt32.self, at: 0) >> 16), bytes.word(UInt32.self, at: 4))
        func words(_ value: Range<Int>, _ count: Int) -> [UInt32]? {
            value.count < count * 4 ? nil : (0..<count).map { bytes.word(UInt32.self, at: value.lowerBound + $0 * 4) }
        }
        func ring(_ value: Range<Int>) -> PacketSocketInfo.Ring? {
            words(value, 7).map {
                .init(blockSize: $0[0], blocks: $0[1], frameSize: $0[2], frames: $0[3], retireTimeout: $0[4], privateSize: $0[5], features: $0[6])
            }
        }
        let whole = attributes(bytes, from: 16) { type, value in
            switch type {  // enum in include/uapi/linux/packet_diag.h
            case 0:
                guard let all = words(value, 6) else { return }
                (info.interface, info.version, info.reserve) = (all[0], all[1], all[2])
                (info.copyThreshold, info.timestamp, info.flags) = (all[3], all[4], all[5])
            case 1:  // struct packet_diag_mclist: index, count, u16 type, u16 length, 32 bytes of address
                info.memberships = stride(from: value.lowerBound, through: value.upperBound - 44, by: 44).map { at in
                    let type = bytes.word(UInt32.self, at: at + 8), length = min(Int(type >> 16), 32)
                    return .init(
                        interface: bytes.word(UInt32.self, at: at), type: UInt16(truncatingIfNeeded: type), address: Array(bytes[(at + 12)..<(at + 12 + length)]),
                        count: bytes.word(UInt32.self, at: at + 4))
                }
            case 2: info.receiveRing = ring(value)
            case 3: info.transmitRing = ring(value)
            case 4: info.fanout = words(value, 1)?[0]
            default: break
            }
        }
        return whole ? info : nil
    }
}
