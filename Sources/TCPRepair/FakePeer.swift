import Glibc
import Linux

/// Speaks to a socket of this host as if it were the socket's peer: the only way to the states that a FIN leads to. The packet is made by
/// us, header and all (raw(7)); its destination is local, so it goes through the loopback device and nowhere else.
struct FakePeer {
    struct Flags: OptionSet { let rawValue: UInt8; static let fin = Flags(rawValue: 1) }
    private let from: InetAddress, to: InetAddress
    private let mark: UInt32

    init(_ connection: TCPConnection, mark: UInt32) {
        // What a v4-mapped IPv6 socket exchanges is IPv4.
        (from, to, self.mark) = (connection.peer.unmapped, connection.local.unmapped, mark)
    }

    func send(_ flags: Flags, sequence: UInt32, acknowledging: UInt32) throws(SyscallError) {
        let v4 = from.family == InetAddress.ipv4
        let raw = try FileDescriptor.socket(Int32(from.family), Int32(SOCK_RAW.rawValue), 255 /* IPPROTO_RAW: with the header */)
        if mark != 0 { try raw.setOption(SocketOption.mark, to: Int32(bitPattern: mark)) }
        let segment = segment(flags, sequence, acknowledging)
        // Of the IPv4 header the kernel fills in length, id and checksum; of the IPv6 header nothing.
        let header: [UInt8] = v4
            ? [0x45, 0] + big(UInt16(20 + segment.count)) + [0, 0, 0x40, 0, 64, 6, 0, 0] + from.bytes + to.bytes
            : [0x60, 0, 0, 0] + big(UInt16(segment.count)) + [6, 64] + from.bytes + to.bytes
        var target = to
        target.port = 0
        try raw.send(header + segment, to: target.socketAddress)
    }

    /// A TCP header of 20 bytes: ports, sequence numbers, ACK and `flags`, the largest window.
    func segment(_ flags: Flags, _ sequence: UInt32, _ acknowledging: UInt32) -> [UInt8] {
        var bytes = big(from.port) + big(to.port) + big(sequence) + big(acknowledging) + [0x50, 0x10 | flags.rawValue, 0xff, 0xff, 0, 0, 0, 0]
        // The pseudo header that the checksum covers: addresses, protocol, length.
        let covered = from.bytes + to.bytes + [0, 6] + big(UInt16(bytes.count)) + bytes
        var sum: UInt32 = stride(from: 0, to: covered.count, by: 2).reduce(0) { $0 + UInt32(covered[$1]) << 8 + UInt32(covered[$1 + 1]) }
        while sum > 0xffff { sum = sum >> 16 + sum & 0xffff }
        bytes.replaceSubrange(16..<18, with: big(~UInt16(truncatingIfNeeded: sum)))
        return bytes
    }

    private func big(_ value: some FixedWidthInteger & UnsignedInteger) -> [UInt8] {
        stride(from: value.bitWidth - 8, through: 0, by: -8).map { UInt8(truncatingIfNeeded: value >> $0) }
    }
}
