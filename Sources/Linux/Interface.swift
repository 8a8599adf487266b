import CLinux
import Glibc

/// Properties of a network interface of ours, by name (netdevice(7)).
public struct Interface: Sendable {
    public let name: String
    public init(_ name: String) { self.name = name }

    /// The interface with that number, if_indextoname(3).
    public init?(index: UInt32) {
        var buffer = [CChar](repeating: 0, count: Int(IF_NAMESIZE))
        guard unsafe buffer.withUnsafeMutableBufferPointer({ unsafe if_indextoname(index, $0.baseAddress) }) != nil else { return nil }
        name = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    public func index() throws(SyscallError) -> UInt32 { try request("SIOCGIFINDEX", 0x8933).word(at: 0) }
    public func mtu() throws(SyscallError) -> UInt32 { try request("SIOCGIFMTU", 0x8921).word(at: 0) }
    public func set(mtu: UInt32) throws(SyscallError) { try request("SIOCSIFMTU", 0x8922, little32(mtu)) }
    /// IFF_*: the 16 bits that ioctls know.
    public func flags() throws(SyscallError) -> UInt32 { try request("SIOCGIFFLAGS", 0x8913).word(UInt32.self, at: 0) & 0xffff }
    public func set(flags: UInt32) throws(SyscallError) { try request("SIOCSIFFLAGS", 0x8914, little32(flags & 0xffff)) }
    /// struct sockaddr: the type of hardware, then the address.
    public func hardwareAddress() throws(SyscallError) -> [UInt8] { try request("SIOCGIFHWADDR", 0x8927) }
    public func set(hardwareAddress: [UInt8]) throws(SyscallError) { try request("SIOCSIFHWADDR", 0x8924, hardwareAddress) }

    /// struct ifreq: 16 bytes of name, 24 of value.
    @discardableResult
    private func request(_ call: String, _ number: Int, _ value: [UInt8] = []) throws(SyscallError) -> [UInt8] {
        let socket = try FileDescriptor.socket(AF_INET, 2)
        var bytes = Interface.request(name, value)
        try Syscall.call("ioctl(\(call))", SYS_ioctl, bytes: &bytes, at: 2, Int(socket.number), number, on: .path(name))
        return Array(bytes[16...])
    }
    public static func request(_ name: String, _ value: [UInt8]) -> [UInt8] {
        let name = Array(name.utf8.prefix(15))
        return name + [UInt8](repeating: 0, count: 16 - name.count) + value.prefix(24) + [UInt8](repeating: 0, count: max(0, 24 - value.count))
    }
}
