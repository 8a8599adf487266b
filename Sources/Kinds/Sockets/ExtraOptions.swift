import Glibc
package import ImageMessages
package import Linux

/// Options that CRIU's images have no place for: those of a socket that differ from a new one's, in sk_opts_entry.extra.
package enum ExtraOptions {
    /// An option that setsockopt(2) takes as getsockopt(2) gives it.
    package struct Option: Sendable {
        let level: Int32, number: Int32
        /// Bytes at most.
        var size = 4
        /// What a new socket has, as a number of `size` bytes; nil: no bytes at all.
        var normal: Int64? = 0
    }

    /// Level SOL_SOCKET (socket(7), include/uapi/asm-generic/socket.h).
    package static let all: [Option] = [
        Option(level: 1, number: 42, normal: -1),  // SO_PEEK_OFF
        Option(level: 1, number: 29), Option(level: 1, number: 35),  // SO_TIMESTAMP, SO_TIMESTAMPNS
        Option(level: 1, number: 76), Option(level: 1, number: 83, normal: 1),  // SO_PASSPIDFD, SO_PASSRIGHTS
        Option(level: 1, number: 44),  // SO_LOCK_FILTER
    ]
    /// More of level SOL_SOCKET, for sockets of a network.
    private static let network: [Option] = [
        Option(level: 1, number: 37, size: 8), Option(level: 1, number: 63), Option(level: 1, number: 64),  // SO_TIMESTAMPING, SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW
        Option(level: 1, number: 65, size: 8),  // SO_TIMESTAMPING_NEW
        Option(level: 1, number: 40), Option(level: 1, number: 41), Option(level: 1, number: 43),  // SO_RXQ_OVFL, SO_WIFI_STATUS, SO_NOFCS
        Option(level: 1, number: 45), Option(level: 1, number: 46), Option(level: 1, number: 47, size: 8, normal: -1),  // SO_SELECT_ERR_QUEUE, SO_BUSY_POLL, SO_MAX_PACING_RATE
        Option(level: 1, number: 60), Option(level: 1, number: 61, size: 8),  // SO_ZEROCOPY, SO_TXTIME
        Option(level: 1, number: 69), Option(level: 1, number: 70), Option(level: 1, number: 75),  // SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET, SO_RCVMARK
    ]
    /// Level SOL_NETLINK (netlink(7)): PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
    package static let netlink: [Option] = all + ([3, 4, 5, 8, 10, 11, 12] as [Int32]).map { Option(level: 270, number: $0) }
    /// Level SOL_PACKET (packet(7)): TX_HAS_OFF, QDISC_BYPASS, IGNORE_OUTGOING.
    package static let packet: [Option] = all + network + ([19, 20, 23] as [Int32]).map { Option(level: 263, number: $0) }

    /// Level IPPROTO_IP (ip(7)).
    private static let ip: [Option] = [
        Option(level: 0, number: 19),  // IP_TRANSPARENT
        Option(level: 0, number: 4, size: 40, normal: nil),  // IP_OPTIONS
        Option(level: 0, number: 6), Option(level: 0, number: 7), Option(level: 0, number: 10, normal: 1),  // RECVOPTS, RETOPTS, MTU_DISCOVER
        Option(level: 0, number: 11), Option(level: 0, number: 12), Option(level: 0, number: 13), Option(level: 0, number: 18),  // RECVERR, RECVTTL, RECVTOS, PASSSEC
        Option(level: 0, number: 20), Option(level: 0, number: 21), Option(level: 0, number: 24),  // ORIGDSTADDR, MINTTL, BIND_ADDRESS_NO_PORT
        Option(level: 0, number: 25), Option(level: 0, number: 26), Option(level: 0, number: 50), Option(level: 0, number: 51),  // RECVFRAGSIZE, RECVERR_RFC4884, UNICAST_IF, LOCAL_PORT_RANGE
        Option(level: 0, number: 32), Option(level: 0, number: 33, normal: 1), Option(level: 0, number: 34, normal: 1),  // MULTICAST_IF, MULTICAST_TTL, MULTICAST_LOOP
        Option(level: 0, number: 49, normal: 1),  // MULTICAST_ALL
    ]
    /// Level IPPROTO_IPV6 (ipv6(7)).
    private static let ipv6: [Option] = [
        Option(level: 41, number: 75),  // TRANSPARENT
        Option(level: 41, number: 7, normal: -1),  // CHECKSUM, of raw sockets
        Option(level: 41, number: 16, normal: 64), Option(level: 41, number: 17), Option(level: 41, number: 18, normal: 1),  // UNICAST_HOPS, MULTICAST_IF, MULTICAST_HOPS
        Option(level: 41, number: 19, normal: 1), Option(level: 41, number: 23, normal: 1), Option(level: 41, number: 25),  // MULTICAST_LOOP, MTU_DISCOVER, RECVERR
        Option(level: 41, number: 29, normal: 1), Option(level: 41, number: 31), Option(level: 41, number: 33),  // MULTICAST_ALL, RECVERR_RFC4884, FLOWINFO_SEND
        Option(level: 41, number: 51), Option(level: 41, number: 53), Option(level: 41, number: 56), Option(level: 41, number: 58),  // RECVHOPLIMIT, -HOPOPTS, -RTHDR, -DSTOPTS
        Option(level: 41, number: 60), Option(level: 41, number: 62), Option(level: 41, number: 66), Option(level: 41, number: 67),  // RECVPATHMTU, DONTFRAG, RECVTCLASS, TCLASS
        Option(level: 41, number: 70, normal: 1), Option(level: 41, number: 73), Option(level: 41, number: 74),  // AUTOFLOWLABEL, MINHOPCOUNT, ORIGDSTADDR
        Option(level: 41, number: 76), Option(level: 41, number: 77),  // UNICAST_IF, RECVFRAGSIZE
    ]
    /// udp(7), udplite(7): CORK, ENCAP, NO_CHECK6_TX, NO_CHECK6_RX, SEGMENT, GRO; SEND_CSCOV, RECV_CSCOV.
    private static let udp = ([1, 100, 101, 102, 103, 104] as [Int32]).map { Option(level: 17, number: $0) }
    private static let udplite = ([10, 11] as [Int32]).map { Option(level: 136, number: $0) }

    /// Options of inet sockets that are no TCP.
    package static func inet(family: UInt32, type: UInt32, protocol number: UInt32) -> [Option] {
        let level = switch (type, number) {
        case (2, 17): udp
        case (2, 136): udplite + udp.map { Option(level: 136, number: $0.number) }
        default: [Option]()
        }
        return network + ip + (family == 10 ? ipv6 : []) + level + all
    }

    // MARK: Dump

    /// Reads the options of the table; those that this kernel or kind of socket does not know are left out.
    package static func dump(_ socket: FileDescriptor, _ table: [Option]) -> [StasisSocketOption] {
        table.compactMap { option in
            if option.size <= 8 {
                guard let word = socket.word(of: option.number, level: option.level, room: option.size), !option.isUsual(word) else { return nil }
                return StasisSocketOption(option.level, option.number, Array(little64(word.value).prefix(word.count)))
            }
            guard let value = try? socket.option(option.number, level: option.level, room: option.size), value != option.usual(value.count) else { return nil }
            return StasisSocketOption(option.level, option.number, value)
        }
    }

    // MARK: Restore

    /// Sets what differs. Only options of the table are taken from an image.
    package static func restore(_ options: [StasisSocketOption], _ table: [Option], on socket: FileDescriptor) throws {
        for option in options {
            let level = Int32(bitPattern: option.level), number = Int32(bitPattern: option.number), value = Array(option.value)
            guard let known = table.first(where: { $0.level == level && $0.number == number }), value.count <= known.size else {
                throw CheckpointError("restore", .object("socket option \(option.number) of level \(option.level)"), "with \(value.count) bytes it is unknown for this kind of socket")
            }
            if (try? socket.option(number, level: level, room: known.size)) == value { continue }
            do throws(SyscallError) { try socket.setOption(number, level: level, bytes: value) } catch {
                guard (level, number) == (6, 13), error.errno == Errno(ENOENT) else { throw error }  // TCP_CONGESTION (tcp(7))
                let name = String(decoding: value.prefix { $0 != 0 }, as: UTF8.self)
                throw CheckpointError("restore", .object("TCP socket"), "its congestion control \(name) is not there", remedy: "modprobe tcp_\(name)", errno: error.errno)
            }
        }
    }
}

extension ExtraOptions.Option {
    fileprivate func isUsual(_ word: (value: UInt64, count: Int)) -> Bool {
        guard let normal else { return word.count == 0 }
        return word.count == 8 ? word.value == UInt64(bitPattern: normal) : word.value == UInt64(bitPattern: normal) & (1 << (8 * UInt64(word.count)) - 1)
    }
    /// The value of a new socket in as many bytes as the kernel gave.
    fileprivate func usual(_ count: Int) -> [UInt8] {
        guard let normal else { return [] }
        return (0..<count).map { UInt8(truncatingIfNeeded: normal >> (8 * $0)) }
    }
}

extension StasisSocketOption {
    package init(_ level: Int32, _ number: Int32, _ value: [UInt8]) {
        self.init()
        (self.level, self.number, self.value) = (UInt32(bitPattern: level), UInt32(bitPattern: number), .init(imageBytes: value))
    }
}
