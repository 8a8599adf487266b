import Glibc
package import ImageMessages
package import Linux

/// UDP and UDP-Lite (udp(7), udplite(7)): bound or not, connected, members of multicast groups. Datagrams that wait to be read are kept
/// (DatagramQueue); a datagram that is being put together (UDP_CORK, MSG_MORE) can't be.
package enum UDP: ConnectionlessProtocol {
    package static func isFor(type: UInt32, number: UInt32) -> Bool { type == UInt32(SOCK_DGRAM.rawValue) && (number == 17 || number == 136) }

    /// Refuses what was written and has not left the socket. A datagram on its way through a device's queue leaves within moments.
    package static func save(_ file: OpenFile, _ info: InetSocketInfo?, _ entry: inout InetSkEntry) throws {
        for attempt in 0... {
            var unsent: Int32 = 0
            try file.descriptor.ioctl("SIOCOUTQ", 0x5411, &unsent)
            if unsent == 0 { return }
            if attempt == 100 { break }
            usleep(1000)
        }
        throw CheckpointError(
            "dump", file.subject, "a datagram is being put together in it (UDP_CORK or MSG_MORE), and only sending would bring it out",
            remedy: "dump again when the program has sent it")
    }
}
