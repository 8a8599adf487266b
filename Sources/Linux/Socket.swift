import CLinux
import Glibc

/// An address as the kernel takes it: u16 family, then what the family says (sockaddr in socket(7)).
public struct SocketAddress: Equatable, Sendable {
    public let bytes: [UInt8]
    public init(bytes: [UInt8]) { self.bytes = bytes }
    /// unix(7): `name` is sun_path as bind(2) got it, byte for byte; a first byte of zero makes it abstract.
    public init(unix name: [UInt8]) { bytes = [1, 0] + name }
    public var family: UInt16 { bytes.count < 2 ? 0 : UInt16(bytes[0]) | UInt16(bytes[1]) << 8 }
    /// sun_path; empty for a socket without name.
    public var unixName: [UInt8] { Array(bytes.dropFirst(2)) }
}

/// struct ucred, unix(7).
public struct SocketCredentials: Equatable, Sendable, BitwiseCopyable {
    public var pid: Int32 = 0, uid: UInt32 = 0, gid: UInt32 = 0
    public init() {}
    public init(pid: Int32, uid: UInt32, gid: UInt32) { (self.pid, self.uid, self.gid) = (pid, uid, gid) }
}

/// One message of a socket's queue, with the descriptors attached to it; they are ours.
public struct SocketMessage: Sendable {
    public var bytes: [UInt8]
    public var descriptors: [FileDescriptor]
    /// Its length in the queue; more than `bytes` when the buffer was too small.
    public var fullLength: Int
    public var sender: SocketAddress
    /// MSG_CTRUNC: not all descriptors came.
    public var controlTruncated: Bool
    /// SCM_CREDENTIALS, where the socket asks for them (SO_PASSCRED).
    public var credentials: SocketCredentials?
}

/// Option numbers of SOL_SOCKET (include/uapi/asm-generic/socket.h), some of which glibc's headers lack.
public enum SocketOption {
    public static let level: Int32 = 1
    public static let reuseAddress: Int32 = 2, type: Int32 = 3, error: Int32 = 4, dontRoute: Int32 = 5, broadcast: Int32 = 6
    public static let sendBuffer: Int32 = 7, receiveBuffer: Int32 = 8, keepAlive: Int32 = 9, outOfBandInline: Int32 = 10
    public static let noCheck: Int32 = 11, priority: Int32 = 12, linger: Int32 = 13, reusePort: Int32 = 15, passCredentials: Int32 = 16
    public static let peerCredentials: Int32 = 17, receiveLowMark: Int32 = 18, receiveTimeout: Int32 = 20, sendTimeout: Int32 = 21
    public static let bindToDevice: Int32 = 25, attachFilter: Int32 = 26, acceptConnections: Int32 = 30, sendBufferForce: Int32 = 32
    public static let receiveBufferForce: Int32 = 33, passSecurity: Int32 = 34, mark: Int32 = 36, `protocol`: Int32 = 38, domain: Int32 = 39
    public static let peekOffset: Int32 = 42, bufferLock: Int32 = 72
}

extension FileDescriptor {
    /// socket(2). SOCK_CLOEXEC is added.
    public static func socket(_ family: Int32, _ type: Int32, _ proto: Int32 = 0) throws(SyscallError) -> FileDescriptor {
        FileDescriptor(owning: Int32(try Syscall.call("socket", SYS_socket, Int(family), Int(type) | 0o2000000, Int(proto))))
    }
    /// socketpair(2). SOCK_CLOEXEC is added.
    public static func socketPair(_ family: Int32, _ type: Int32, _ proto: Int32 = 0) throws(SyscallError) -> (FileDescriptor, FileDescriptor) {
        var pair: (Int32, Int32) = (-1, -1)
        try Syscall.call("socketpair", SYS_socketpair, value: &pair, at: 3, Int(family), Int(type) | 0o2000000, Int(proto))
        return (FileDescriptor(owning: pair.0), FileDescriptor(owning: pair.1))
    }
    public func bind(_ address: SocketAddress) throws(SyscallError) {
        var bytes = address.bytes
        try Syscall.call("bind", SYS_bind, bytes: &bytes, at: 1, Int(number), bytes.count, on: .fd(number))
    }
    public func connect(_ address: SocketAddress) throws(SyscallError) {
        var bytes = address.bytes
        try Syscall.call("connect", SYS_connect, bytes: &bytes, at: 1, Int(number), bytes.count, on: .fd(number))
    }
    public func listen(_ backlog: Int) throws(SyscallError) { try Syscall.call("listen", SYS_listen, Int(number), backlog, on: .fd(number)) }
    /// accept4(2) with `flags` and SOCK_CLOEXEC.
    public func accept(flags: Int32 = 0) throws(SyscallError) -> FileDescriptor {
        FileDescriptor(owning: Int32(try Syscall.call("accept4", SYS_accept4, Int(number), 0, 0, Int(flags) | 0o2000000, on: .fd(number))))
    }
    /// shutdown(2): 0 reading, 1 writing, 2 both.
    public func shutdown(_ how: Int) throws(SyscallError) { try Syscall.call("shutdown", SYS_shutdown, Int(number), how, on: .fd(number)) }
    /// poll(2) without waiting: the events that are there, of those asked for and of those that need no asking (POLLHUP, POLLERR).
    public func poll(for events: Int16) throws(SyscallError) -> Int16 {
        var one = (number, events, Int16(0))  // struct pollfd
        try Syscall.call("poll", SYS_poll, value: &one, at: 0, 1, 0, on: .fd(number))
        return one.2
    }
    public func localAddress() throws(SyscallError) -> SocketAddress { try address("getsockname", SYS_getsockname) }
    public func peerAddress() throws(SyscallError) -> SocketAddress { try address("getpeername", SYS_getpeername) }

    private func address(_ name: String, _ call: Int32) throws(SyscallError) -> SocketAddress {
        var buffer = [UInt8](repeating: 0, count: 128)
        let number = self.number
        var length: UInt32 = 128
        try Syscall.check(name, .fd(number)) {
            length = 128
            return unsafe buffer.withUnsafeMutableBytes { bytes in
                unsafe withUnsafeMutablePointer(to: &length) {
                    unsafe Syscall.raw(call, Int(number), Int(bitPattern: bytes.baseAddress), Int(bitPattern: $0))
                }
            }
        }
        return SocketAddress(bytes: Array(buffer.prefix(Int(min(length, 128)))))
    }

    // Options

    /// getsockopt(2) into at most `room` bytes.
    /// - Parameter claimed: the length told to the kernel where it does not count in bytes; `room` bytes must then suffice.
    public func option(_ option: Int32, level: Int32 = SocketOption.level, room: Int, claiming claimed: Int? = nil) throws(SyscallError) -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: max(room, 1))
        let number = self.number
        var length = UInt32(claimed ?? room)
        try Syscall.check("getsockopt(\(level), \(option))", .fd(number)) {
            unsafe buffer.withUnsafeMutableBytes { bytes in
                unsafe withUnsafeMutablePointer(to: &length) {
                    unsafe Syscall.raw(
                        SYS_getsockopt, Int(number), Int(level), Int(option), Int(bitPattern: bytes.baseAddress), Int(bitPattern: $0))
                }
            }
        }
        return Array(buffer.prefix(claimed == nil ? Int(length) : room))
    }
    /// An option of at most eight bytes as a number, and how many bytes it has; nil where the kernel or this kind of socket does not know it.
    /// For those who ask for a hundred of them.
    public func word(of option: Int32, level: Int32, room: Int) -> (value: UInt64, count: Int)? {
        precondition(room <= 8)
        var value: UInt64 = 0, length = UInt32(room)
        let number = self.number
        let result = unsafe withUnsafeMutablePointer(to: &value) { pointer in
            unsafe withUnsafeMutablePointer(to: &length) {
                unsafe Syscall.raw(SYS_getsockopt, Int(number), Int(level), Int(option), Int(bitPattern: pointer), Int(bitPattern: $0))
            }
        }
        return result < 0 ? nil : (UInt64(littleEndian: value), Int(length))
    }
    /// An option of any fixed layout.
    public func option<Value: BitwiseCopyable>(_ option: Int32, level: Int32 = SocketOption.level, into value: inout Value) throws(SyscallError) {
        let number = self.number
        var length = UInt32(MemoryLayout<Value>.size)
        try Syscall.check("getsockopt(\(level), \(option))", .fd(number)) {
            unsafe withUnsafeMutablePointer(to: &value) { pointer in
                unsafe withUnsafeMutablePointer(to: &length) {
                    unsafe Syscall.raw(SYS_getsockopt, Int(number), Int(level), Int(option), Int(bitPattern: pointer), Int(bitPattern: $0))
                }
            }
        }
    }
    /// getsockopt(2) of an option that reads a request and answers in its place. Returns how many bytes of `buffer` are the answer.
    public func exchangeOption(_ option: Int32, level: Int32, _ buffer: inout [UInt8]) throws(SyscallError) -> Int {
        let number = self.number
        var length = UInt32(buffer.count)
        try Syscall.check("getsockopt(\(level), \(option))", .fd(number)) {
            unsafe buffer.withUnsafeMutableBytes { bytes in
                unsafe withUnsafeMutablePointer(to: &length) {
                    unsafe Syscall.raw(SYS_getsockopt, Int(number), Int(level), Int(option), Int(bitPattern: bytes.baseAddress), Int(bitPattern: $0))
                }
            }
        }
        return min(Int(length), buffer.count)
    }
    public func intOption(_ option: Int32, level: Int32 = SocketOption.level) throws(SyscallError) -> Int32 {
        var value: Int32 = 0
        try self.option(option, level: level, into: &value)
        return value
    }
    public func setOption(_ option: Int32, level: Int32 = SocketOption.level, bytes: [UInt8]) throws(SyscallError) {
        var bytes = bytes
        try Syscall.call("setsockopt(\(level), \(option))", SYS_setsockopt, bytes: &bytes, at: 3, Int(number), Int(level), Int(option), bytes.count, on: .fd(number))
    }
    public func setOption<Value: BitwiseCopyable>(_ option: Int32, level: Int32 = SocketOption.level, to value: Value) throws(SyscallError) {
        var value = value
        try Syscall.call(
            "setsockopt(\(level), \(option))", SYS_setsockopt, value: &value, at: 3, Int(number), Int(level), Int(option), MemoryLayout<Value>.size,
            on: .fd(number))
    }
    /// How many instructions the socket's filter has: SO_GET_FILTER with room for none (net/core/filter.c, sk_get_filter).
    public func filterLength() throws(SyscallError) -> Int {
        let number = self.number
        var length: UInt32 = 0
        try Syscall.check("getsockopt(SO_GET_FILTER)", .fd(number)) {
            length = 0
            return unsafe withUnsafeMutablePointer(to: &length) {
                unsafe Syscall.raw(SYS_getsockopt, Int(number), Int(SocketOption.level), Int(SocketOption.attachFilter), 0, Int(bitPattern: $0))
            }
        }
        return Int(length)
    }
    /// SO_ATTACH_FILTER (socket(7)): `instructions` are struct sock_filter, eight bytes each.
    public func attachFilter(_ instructions: [UInt64]) throws(SyscallError) {
        var code = instructions
        let number = self.number
        struct Program { var count: UInt64, code: UInt }  // struct sock_fprog: u16, padding, pointer
        try Syscall.check("setsockopt(SO_ATTACH_FILTER)", .fd(number)) {
            unsafe code.withUnsafeMutableBytes { bytes in
                var program = Program(count: UInt64(UInt16(truncatingIfNeeded: instructions.count)), code: UInt(bitPattern: bytes.baseAddress))
                return unsafe withUnsafeMutablePointer(to: &program) {
                    unsafe Syscall.raw(SYS_setsockopt, Int(number), Int(SocketOption.level), Int(SocketOption.attachFilter), Int(bitPattern: $0), 16)
                }
            }
        }
    }

    // Messages

    /// sendmsg(2) with MSG_NOSIGNAL and `flags`; `descriptors` travel as SCM_RIGHTS (unix(7)). Returns the bytes taken.
    @discardableResult
    public func send(
        _ bytes: [UInt8], descriptors: [FileDescriptor] = [], credentials: SocketCredentials? = nil, to address: SocketAddress? = nil, flags: Int32 = 0
    ) throws(SyscallError) -> Int {
        var bytes = bytes, name = address?.bytes ?? [], control = [UInt8]()
        func word(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
        // struct cmsghdr: u64 length, level SOL_SOCKET, type; padded to 8 (cmsg(3)).
        func add(_ type: UInt32, _ data: [UInt8]) {
            control += word(UInt32(16 + data.count)) + word(0) + word(1) + word(type) + data + [UInt8](repeating: 0, count: -data.count & 7)
        }
        if !descriptors.isEmpty { add(1, descriptors.flatMap { word(UInt32(bitPattern: $0.number)) }) }
        if let credentials { add(2, word(UInt32(bitPattern: credentials.pid)) + word(credentials.uid) + word(credentials.gid)) }
        let number = self.number
        // The array keeps the descriptors open until the kernel has taken them.
        return try withExtendedLifetime(descriptors) { () throws(SyscallError) -> Int in
            try Syscall.check("sendmsg", .fd(number)) {
                unsafe withMessage(&bytes, &name, &control) {
                    unsafe Syscall.raw(SYS_sendmsg, Int(number), Int(bitPattern: $0), Int(flags | 0x4000 /* MSG_NOSIGNAL */))
                }
            }
        }
    }

    /// recvmsg(2) with `flags` and MSG_CMSG_CLOEXEC. Nil when there is nothing to read now (EAGAIN).
    /// - Parameter endsInFault: one byte more is offered, at an address where nothing can be: the part of the queue that would
    ///   fill it is not taken (EFAULT when it is the first).
    public func receive(room: Int, flags: Int32, endsInFault: Bool = false) throws(SyscallError) -> SocketMessage? {
        // 253 descriptors (SCM_MAX_FD), credentials, a pidfd, a label, time stamps: well within 4 KiB.
        var bytes = [UInt8](repeating: 0, count: room), name = [UInt8](repeating: 0, count: 128), control = [UInt8](repeating: 0, count: 4096)
        let number = self.number
        var nameLength = 0, controlLength = 0, resultFlags: Int32 = 0
        let result: Int
        do throws(SyscallError) {
            result = try Syscall.check("recvmsg", .fd(number)) {
                unsafe withMessage(&bytes, &name, &control, endsInFault: endsInFault) { header in
                    let got = unsafe Syscall.raw(SYS_recvmsg, Int(number), Int(bitPattern: header), Int(flags | 0x4000_0000 /* MSG_CMSG_CLOEXEC */))
                    unsafe (nameLength, controlLength, resultFlags) = (Int(header.pointee.msg_namelen), header.pointee.msg_controllen, header.pointee.msg_flags)
                    return got
                }
            }
        } catch {
            if error.errno.rawValue == EAGAIN { return nil }
            throw error
        }
        return SocketMessage(
            bytes: Array(bytes.prefix(result)), descriptors: Self.descriptors(inControl: Array(control.prefix(controlLength))), fullLength: result,
            sender: SocketAddress(bytes: Array(name.prefix(nameLength))), controlTruncated: resultFlags & 8 != 0,
            credentials: Self.credentials(inControl: Array(control.prefix(controlLength))))
    }

    static func credentials(inControl bytes: [UInt8]) -> SocketCredentials? {
        func word(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << (8 * $1) } }
        var at = 0
        while at + 16 <= bytes.count {
            let length = Int(word(at))
            guard length >= 16, length <= bytes.count - at else { return nil }
            if word(at + 8) == 1, word(at + 12) == 2, length >= 28 {
                return SocketCredentials(pid: Int32(bitPattern: word(at + 16)), uid: word(at + 20), gid: word(at + 24))
            }
            at += (length + 7) & ~7
        }
        return nil
    }
    /// The descriptors in control messages (cmsg(3)): SCM_RIGHTS 1, and the pidfd of SCM_PIDFD 4, which is only closed.
    static func descriptors(inControl bytes: [UInt8]) -> [FileDescriptor] {
        func word(_ at: Int) -> Int32 { Int32(bitPattern: (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << (8 * $1) }) }
        var found = [FileDescriptor](), at = 0
        while at + 16 <= bytes.count {
            let length = Int(word(at))
            guard length >= 16, at + length <= bytes.count else { break }
            if word(at + 8) == SocketOption.level, word(at + 12) == 1 || word(at + 12) == 4 {
                let some = stride(from: at + 16, to: at + length - 3, by: 4).map { FileDescriptor(owning: word($0)) }
                if word(at + 12) == 1 { found += some }
            }
            at += (length + 7) & ~7
        }
        return found
    }
}

/// Lends a struct msghdr over the three buffers; empty ones are NULL.
private func withMessage(
    _ bytes: inout [UInt8], _ name: inout [UInt8], _ control: inout [UInt8], endsInFault: Bool = false,
    _ body: (UnsafeMutablePointer<msghdr>) -> Int
) -> Int {
    unsafe bytes.withUnsafeMutableBytes { data in
        unsafe name.withUnsafeMutableBytes { address in
            unsafe control.withUnsafeMutableBytes { extra in
                var vectors = unsafe [
                    iovec(iov_base: data.baseAddress, iov_len: data.count), iovec(iov_base: UnsafeMutableRawPointer(bitPattern: 8), iov_len: 1),
                ]
                return unsafe vectors.withUnsafeMutableBufferPointer { vectors in
                    var header = unsafe msghdr()
                    unsafe header.msg_iov = vectors.baseAddress
                    unsafe header.msg_iovlen = endsInFault ? 2 : 1
                    unsafe header.msg_name = address.isEmpty ? nil : address.baseAddress
                    unsafe header.msg_namelen = UInt32(address.count)
                    unsafe header.msg_control = extra.isEmpty ? nil : extra.baseAddress
                    unsafe header.msg_controllen = extra.count
                    return unsafe withUnsafeMutablePointer(to: &header) { unsafe body($0) }
                }
            }
        }
    }
}

extension FileDescriptor {
    /// The network namespace that a socket belongs to (SIOCGSKNS, net/socket.c).
    public func networkNamespace() throws(SyscallError) -> FileDescriptor { FileDescriptor(owning: Int32(try ioctl("SIOCGSKNS", 0x894c))) }

    /// Bytes of kernel memory that wait in the socket to be read: SO_MEMINFO's first word (SK_MEMINFO_RMEM_ALLOC). Reads nothing.
    public func queuedMemory() throws(SyscallError) -> UInt32 {
        let words = try option(55, room: 36)
        return words.count < 4 ? 0 : (0..<4).reduce(0) { $0 | UInt32(words[$1]) << (8 * $1) }
    }

    /// The name of an interface in the socket's network namespace, zeros behind it (SIOCGIFNAME, netdevice(7)).
    public func interfaceName(_ index: UInt32, room: Int = 16) throws(SyscallError) -> [UInt8] {
        var request = [UInt8](repeating: 0, count: 40)  // struct ifreq: name, then the index
        for byte in 0..<4 { request[16 + byte] = UInt8(truncatingIfNeeded: index >> (8 * byte)) }
        try Syscall.call("ioctl(SIOCGIFNAME)", SYS_ioctl, bytes: &request, at: 2, Int(number), 0x8910, on: .fd(number))
        return Array(request[..<room])
    }
}
