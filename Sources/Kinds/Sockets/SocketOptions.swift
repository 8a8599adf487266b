package import ImageMessages
package import Linux

/// Options of level SOL_SOCKET, the same for every kind of socket (socket(7)): sk_opts_entry.
package enum SocketOptions {
    /// struct timeval, struct linger and struct ucred as the kernel lays them out.
    struct TimeValue: BitwiseCopyable { var seconds: Int64 = 0, microseconds: Int64 = 0 }
    struct Linger: BitwiseCopyable { var on: Int32 = 0, seconds: Int32 = 0 }
    struct Credentials: BitwiseCopyable { var pid: Int32 = 0, uid: UInt32 = 0, gid: UInt32 = 0 }

    /// Reads every option.
    /// - Parameters:
    ///   - credentials: whether SO_PASSCRED and SO_PASSSEC belong to this kind (unix and netlink sockets).
    ///   - extras: what to look at of the options that CRIU's images have no place for.
    package static func dump(_ socket: FileDescriptor, credentials: Bool, extras: [ExtraOptions.Option] = ExtraOptions.all) throws -> SkOptsEntry {
        typealias Option = SocketOption
        var entry = SkOptsEntry()
        entry.soSndbuf = UInt32(bitPattern: try socket.intOption(Option.sendBuffer))
        entry.soRcvbuf = UInt32(bitPattern: try socket.intOption(Option.receiveBuffer))
        var time = TimeValue()
        try socket.option(Option.sendTimeout, into: &time)
        (entry.soSndTmoSec, entry.soSndTmoUsec) = (UInt64(bitPattern: time.seconds), UInt64(bitPattern: time.microseconds))
        try socket.option(Option.receiveTimeout, into: &time)
        (entry.soRcvTmoSec, entry.soRcvTmoUsec) = (UInt64(bitPattern: time.seconds), UInt64(bitPattern: time.microseconds))
        func flag(_ option: Int32) throws -> Bool { try socket.intOption(option) != 0 }
        entry.reuseaddr = try flag(Option.reuseAddress)
        entry.soPriority = UInt32(bitPattern: try socket.intOption(Option.priority))
        entry.soRcvlowat = UInt32(bitPattern: try socket.intOption(Option.receiveLowMark))
        let mark = UInt32(bitPattern: try socket.intOption(Option.mark))
        if mark != 0 { entry.soMark = mark }
        if credentials {
            entry.soPasscred = try flag(Option.passCredentials)
            // A kernel without security modules may not know SO_PASSSEC.
            entry.soPasssec = (try? flag(Option.passSecurity)) ?? false
        }
        entry.soDontroute = try flag(Option.dontRoute)
        entry.soNoCheck = try flag(Option.noCheck)
        entry.soReuseport = try flag(Option.reusePort)
        entry.soBroadcast = try flag(Option.broadcast)
        entry.soKeepalive = try flag(Option.keepAlive)
        entry.soOobinline = UInt32(bitPattern: try socket.intOption(Option.outOfBandInline))
        var linger = Linger()
        try socket.option(Option.linger, into: &linger)
        if linger.on != 0 { entry.soLinger = UInt32(bitPattern: linger.seconds) }
        let device = try socket.option(Option.bindToDevice, room: 16).prefix { $0 != 0 }
        if !device.isEmpty { entry.soBoundDev = String(decoding: device, as: UTF8.self) }
        if let lock = try? socket.intOption(Option.bufferLock) { entry.soBufLock = UInt32(bitPattern: lock) }
        entry.soFilter = try filter(of: socket)
        entry.extra = ExtraOptions.dump(socket, extras)
        return entry
    }

    /// SO_GET_FILTER (the number of SO_ATTACH_FILTER) counts in instructions and is asked twice: how many, then which.
    private static func filter(of socket: FileDescriptor) throws -> [UInt64] {
        let count: Int
        do { count = try socket.filterLength() }
        catch {
            if error.errno.rawValue != 13 /* EACCES */ { throw error }
            throw CheckpointError(
                "dump", .object("socket filter"), "the socket's filter is an eBPF program, which the kernel does not give out", errno: error.errno)
        }
        if count == 0 { return [] }
        let bytes = try socket.option(SocketOption.attachFilter, room: count * 8, claiming: count)
        return (0..<count).map { at in
            func byte(_ offset: Int) -> UInt64 { UInt64(bytes[at * 8 + offset]) }
            // struct sock_filter: u16 code, u8 jt, u8 jf, u32 k.
            let k = byte(4) | byte(5) << 8 | byte(6) << 16 | byte(7) << 24
            return (byte(0) | byte(1) << 8) << 48 | byte(2) << 40 | byte(3) << 32 | k
        }
    }
    /// Sets every option the entry has, where it differs: some kinds refuse to hear what they don't support.
    /// Comes after the queues, whose messages a filter, a small buffer or SO_PASSCRED would change.
    package static func restore(_ entry: SkOptsEntry, on socket: FileDescriptor, extras: [ExtraOptions.Option] = ExtraOptions.all) throws {
        typealias Option = SocketOption
        try restoreBuffers(entry, on: socket)
        func set(_ option: Int32, _ value: Int32) throws {
            if try socket.intOption(option) != value { try socket.setOption(option, to: value) }
        }
        func set(_ option: Int32, _ value: UInt32) throws { try set(option, Int32(bitPattern: value)) }
        // A new socket has none of these (net/core/sock.c, sock_init_data_uid).
        func raise(_ option: Int32, _ value: Bool) throws { if value { try socket.setOption(option, to: Int32(1)) } }
        func set(_ option: Int32, _ seconds: UInt64, _ microseconds: UInt64) throws {
            if seconds == 0 && microseconds == 0 { return }
            try socket.setOption(option, to: TimeValue(seconds: Int64(bitPattern: seconds), microseconds: Int64(bitPattern: microseconds)))
        }
        try set(Option.sendTimeout, entry.soSndTmoSec, entry.soSndTmoUsec)
        try set(Option.receiveTimeout, entry.soRcvTmoSec, entry.soRcvTmoUsec)
        try raise(Option.reuseAddress, entry.reuseaddr)
        if entry.hasSoPriority { try set(Option.priority, entry.soPriority) }
        if entry.hasSoRcvlowat, entry.soRcvlowat != 1 { try set(Option.receiveLowMark, entry.soRcvlowat) }
        if entry.hasSoMark { try set(Option.mark, entry.soMark) }
        if entry.hasSoPasscred { try set(Option.passCredentials, Int32(entry.soPasscred ? 1 : 0)) }
        if entry.soPasssec { try set(Option.passSecurity, Int32(1)) }
        try raise(Option.dontRoute, entry.soDontroute)
        try raise(Option.noCheck, entry.soNoCheck)
        if entry.hasSoReuseport { try set(Option.reusePort, Int32(entry.soReuseport ? 1 : 0)) }
        try raise(Option.broadcast, entry.soBroadcast)
        try raise(Option.keepAlive, entry.soKeepalive)
        try raise(Option.outOfBandInline, entry.soOobinline != 0)
        if entry.hasSoLinger { try socket.setOption(Option.linger, to: Linger(on: 1, seconds: Int32(bitPattern: entry.soLinger))) }
        if entry.hasSoBoundDev { try socket.setOption(Option.bindToDevice, bytes: Array(entry.soBoundDev.utf8.prefix(15)) + [0]) }
        if !entry.soFilter.isEmpty { try attachFilter(entry.soFilter, to: socket) }
        try ExtraOptions.restore(entry.extra, extras, on: socket)
    }

    /// The kernel doubles what it is told, so half of what it said is told. SO_*BUFFORCE goes past the limits of
    /// net.core.*mem_max with CAP_NET_ADMIN; without, the plain option does what it can.
    private static func restoreBuffers(_ entry: SkOptsEntry, on socket: FileDescriptor) throws {
        typealias Option = SocketOption
        for (option, force, value) in [
            (Option.sendBuffer, Option.sendBufferForce, entry.soSndbuf), (Option.receiveBuffer, Option.receiveBufferForce, entry.soRcvbuf),
        ] {
            if try UInt32(bitPattern: socket.intOption(option)) == value { continue }
            let half = Int32(bitPattern: value / 2)
            do { try socket.setOption(force, to: half) } catch { try socket.setOption(option, to: half) }
        }
        if entry.hasSoBufLock { _ = try? socket.setOption(Option.bufferLock, to: Int32(bitPattern: entry.soBufLock & 3)) }
    }

    private static func attachFilter(_ instructions: [UInt64], to socket: FileDescriptor) throws {
        guard instructions.count <= 4096 else {  // BPF_MAXINSNS
            throw CheckpointError("restore", .object("socket filter"), "\(instructions.count) instructions; the kernel takes at most 4096")
        }
        try socket.attachFilter(instructions.map { word in
            let code = word >> 48 & 0xffff, jt = word >> 40 & 0xff, jf = word >> 32 & 0xff, k = word & 0xffff_ffff
            return code | jt << 16 | jf << 24 | k << 32
        })
    }

    /// SO_PEERCRED: who connected or listened, unix(7).
    package static func peerCredentials(of socket: FileDescriptor) throws(SyscallError) -> (pid: Int32, uid: UInt32, gid: UInt32) {
        var credentials = Credentials()
        try socket.option(SocketOption.peerCredentials, into: &credentials)
        return (credentials.pid, credentials.uid, credentials.gid)
    }
}
