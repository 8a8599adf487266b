import CLinux
import Glibc

/// What sockets and netlink(7) offer.
extension KernelProbe {
    private static let streamFlag = 1, datagramFlag = 2, rawFlag = 3, closeOnExec = 0o2000000

    private static func socket(_ family: Int, _ type: Int, _ protocolNumber: Int = 0) -> FileDescriptor? {
        owned(unsafe Syscall.raw(SYS_socket, family, type | closeOnExec, protocolNumber))
    }

    private static func takes(_ socket: FileDescriptor?, level: Int, _ option: Int, _ value: Int32) -> Bool {
        guard let socket else { return false }
        var value = value
        return (try? Syscall.call("setsockopt", SYS_setsockopt, value: &value, at: 3, Int(socket.number), level, option, 4)) != nil
    }

    public static var peekOffset: Bool { takes(socket(1, streamFlag), level: 1, 42, 0) }
    public static var tcpRepair: Bool { takes(socket(2, streamFlag), level: 6, 19, 1) }
    public static var freebind6: Bool { takes(socket(10, streamFlag), level: 41, 78, 1) }
    public static var bufferLock: Bool { takes(socket(2, streamFlag), level: 1, 72, 0) }

    /// ioctl(SIOCGSKNS): the network namespace of a socket.
    public static var socketNamespace: Bool {
        guard let socket = socket(1, datagramFlag) else { return false }
        return owned(unsafe Syscall.raw(SYS_ioctl, Int(socket.number), 0x894c)) != nil
    }

    /// ioctl(SIOCUNIXFILE): a socket without a name answers ENOENT.
    public static var socketFile: Bool {
        guard let socket = socket(1, datagramFlag) else { return false }
        let result = unsafe Syscall.raw(SYS_ioctl, Int(socket.number), 0x89e0)
        return owned(result) != nil || result == -Int(ENOENT)
    }

    public static var tun: Bool { (try? FileDescriptor.open("/dev/net/tun", O_RDWR)) != nil }

    /// The type of the first answer to one netlink message; an error answer is nil.
    /// - Parameter payload: what follows struct nlmsghdr.
    private static func ask(_ protocolNumber: Int, type: UInt16, flags: UInt16, _ payload: [UInt8]) -> UInt16? {
        guard let socket = socket(16, rawFlag, protocolNumber) else { return nil }
        var message = bytes(UInt32(16 + payload.count)) + bytes(type) + bytes(flags | 1) + bytes(UInt32(1)) + bytes(UInt32(0)) + payload
        let length = message.count
        guard (try? Syscall.call("sendto", SYS_sendto, bytes: &message, at: 1, Int(socket.number), length, 0, 0)) != nil else { return nil }
        var answer = [UInt8](repeating: 0, count: 8192)
        guard let got = try? Syscall.call("recvfrom", SYS_recvfrom, bytes: &answer, at: 1, Int(socket.number), answer.count, 0, 0), got >= 16 else { return nil }
        let kind = UInt16(answer[4]) | UInt16(answer[5]) << 8
        return kind == 2 ? nil : kind  // NLMSG_ERROR
    }

    private static func bytes(_ value: some FixedWidthInteger) -> [UInt8] {
        (0..<(type(of: value).bitWidth / 8)).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    /// sock_diag(7) for unix sockets: a dump request of struct unix_diag_req.
    public static var unixDiagnosis: Bool {
        ask(4, type: 20, flags: 0x300, [1, 0, 0, 0] + bytes(UInt32.max) + bytes(UInt32(0)) + bytes(UInt32(1)) + bytes(UInt64.max)) != nil
    }

    /// sock_diag(7) for raw sockets: a dump request of struct inet_diag_req_v2.
    public static var rawDiagnosis: Bool {
        ask(4, type: 20, flags: 0x300, [2, 255, 0, 0] + bytes(UInt32.max) + [UInt8](repeating: 0, count: 48)) != nil
    }

    /// RTM_GETNSID of our own namespace, as rtnetlink(7) takes it: struct rtgenmsg and the attribute NETNSA_FD.
    public static var namespaceIds: Bool {
        guard let own = try? FileDescriptor.open("/proc/self/ns/net", O_RDONLY) else { return false }
        return ask(0, type: 90, flags: 0, [0, 0, 0, 0] + bytes(UInt16(8)) + bytes(UInt16(3)) + bytes(own.number)) != nil
    }

    /// nfnetlink, NFT_MSG_GETGEN.
    public static var nftables: Bool { ask(12, type: 10 << 8 | 16, flags: 0, [0, 0, 0, 0]) != nil }

    /// kcmp(2) with KCMP_EPOLL_TFD.
    public static var comparesEpoll: Bool {
        guard let epoll = owned(unsafe Syscall.raw(SYS_epoll_create1, closeOnExec)), let target = owned(unsafe Syscall.raw(SYS_eventfd2, 0, closeOnExec)) else {
            return false
        }
        var event = bytes(UInt32(1)) + bytes(UInt64(0))
        guard (try? Syscall.call("epoll_ctl", SYS_epoll_ctl, bytes: &event, at: 3, Int(epoll.number), 1, Int(target.number))) != nil else { return false }
        var slot = bytes(epoll.number) + bytes(target.number) + bytes(UInt32(0))
        let pid = Int(getpid())
        return (try? Syscall.call("kcmp", SYS_kcmp, bytes: &slot, at: 4, pid, pid, 7, Int(target.number))) == 0
    }

    /// Whether the old iptables are there: their table `filter` answers getsockopt(IPT_SO_GET_INFO) (linux/netfilter_ipv4/ip_tables.h).
    public static var legacyIptables: Bool {
        guard let socket = socket(2, rawFlag, 255) else { return false }
        var info = Array("filter".utf8) + [UInt8](repeating: 0, count: 84 - 6)
        var length: UInt32 = 84
        return unsafe info.withUnsafeMutableBytes { buffer in
            unsafe withUnsafeMutablePointer(to: &length) {
                unsafe Syscall.raw(SYS_getsockopt, Int(socket.number), 0, 64, Int(bitPattern: buffer.baseAddress), Int(bitPattern: $0)) == 0
            }
        }
    }
}
