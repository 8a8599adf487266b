import ImageMessages
import Linux

/// Options of level IPPROTO_TCP (tcp(7)): tcp_opts_entry.
enum TCPOptions {
    static let level: Int32 = 6
    static let noDelay: Int32 = 1, cork: Int32 = 3, keepIdle: Int32 = 4, keepInterval: Int32 = 5, keepCount: Int32 = 6, info: Int32 = 11

    /// What CRIU's images have no place for: SYNCNT, LINGER2, DEFER_ACCEPT, CONGESTION, THIN_LINEAR_TIMEOUTS, USER_TIMEOUT, FASTOPEN, NOTSENT_LOWAT,
    /// SAVE_SYN, FASTOPEN_CONNECT, FASTOPEN_NO_COOKIE, INQ, TX_DELAY.
    static let extra: [ExtraOptions.Option] = [
        .init(level: 6, number: 7, normal: 6), .init(level: 6, number: 8, normal: 60), .init(level: 6, number: 9), .init(level: 6, number: 13, size: 16, normal: nil),
    ] + ([16, 18, 23, 25, 27, 30, 34, 36, 37] as [Int32]).map { .init(level: 6, number: $0) }
    /// TCP_MAXSEG and TCP_WINDOW_CLAMP are the program's only as long as there is no connection.
    static let unconnected: [ExtraOptions.Option] = [.init(level: 6, number: 2, normal: 536), .init(level: 6, number: 10)]

    static func dump(_ socket: FileDescriptor) throws -> TcpOptsEntry {
        func value(_ option: Int32) throws -> UInt32 { UInt32(bitPattern: try socket.intOption(option, level: level)) }
        var entry = TcpOptsEntry()
        if try value(cork) != 0 { entry.cork = true }
        if try value(noDelay) != 0 { entry.nodelay = true }
        (entry.keepidle, entry.keepintvl, entry.keepcnt) = (try value(keepIdle), try value(keepInterval), try value(keepCount))
        return entry
    }

    /// TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT. A new socket has those of net.ipv4.tcp_keepalive_*.
    struct KeepAlive {
        let idle: UInt32, interval: UInt32, count: UInt32
        init(of socket: FileDescriptor) throws(SyscallError) {
            func value(_ option: Int32) throws(SyscallError) -> UInt32 { UInt32(bitPattern: try socket.intOption(option, level: level)) }
            (idle, interval, count) = (try value(keepIdle), try value(keepInterval), try value(keepCount))
        }
    }

    /// Older images have the keepalive times in sk_opts.
    /// - Parameter usual: what the socket has, where that is known.
    static func restore(_ entry: InetSkEntry, on socket: FileDescriptor, where usual: KeepAlive? = nil) throws {
        let usual = try usual ?? KeepAlive(of: socket)
        func set(_ option: Int32, _ value: UInt32) throws { try socket.setOption(option, level: level, to: Int32(bitPattern: value)) }
        let options = entry.tcpOpts, old = entry.opts
        let idle = options.hasKeepidle ? options.keepidle : old.hasTcpKeepidle ? old.tcpKeepidle : usual.idle
        if idle != usual.idle { try set(keepIdle, idle) }
        let interval = options.hasKeepintvl ? options.keepintvl : old.hasTcpKeepintvl ? old.tcpKeepintvl : usual.interval
        if interval != usual.interval { try set(keepInterval, interval) }
        let count = options.hasKeepcnt ? options.keepcnt : old.hasTcpKeepcnt ? old.tcpKeepcnt : usual.count
        if count != usual.count { try set(keepCount, count) }
        if options.nodelay { try set(noDelay, 1) }
        if options.cork { try set(cork, 1) }
    }
}
