import Glibc
import Testing
@testable import Linux

@Suite("sock_diag") struct SocketDiagTests {
    @Test("a unix socket's answer is read attribute by attribute")
    func attributes() {
        let head: [UInt8] = [1, 1, 10, 0, 0x39, 0x30, 0, 0] + [UInt8](repeating: 0, count: 8)
        let name: [UInt8] = [8, 0, 0, 0, 0, 97, 98, 99], file: [UInt8] = [12, 0, 1, 0, 5, 0, 0, 0, 2, 0, 16, 0]
        let waiting: [UInt8] = [12, 0, 3, 0, 7, 0, 0, 0, 0, 0, 0, 0], queue: [UInt8] = [12, 0, 4, 0, 2, 0, 0, 0, 9, 0, 0, 0]
        let shutdown: [UInt8] = [5, 0, 6, 0, 2, 0, 0, 0]
        let info = SocketDiag.parseUnix((head + name + file + waiting + queue + shutdown)[...])
        #expect(info?.inode == 12345 && info?.state == 10 && info?.type == 1)
        #expect(info?.name == [0, 97, 98, 99])
        #expect(info?.file?.inode == 5 && info?.file?.device == 0x100002)
        #expect(info?.waiting == [7, 0])
        #expect(info?.readQueue == 2 && info?.writeQueue == 9 && info?.shutdown == 2 && info?.peer == nil)
    }

    @Test("an answer cut short anywhere is refused or read in part, never past its end")
    func cutShort() {
        let whole: [UInt8] = [1, 1, 10, 0, 1, 0, 0, 0] + [UInt8](repeating: 0, count: 8) + [8, 0, 0, 0, 97, 98, 99, 100, 12, 0, 4, 0, 2, 0, 0, 0, 9, 0, 0, 0]
        for count in 0..<whole.count { _ = SocketDiag.parseUnix(whole[..<count]) }
        #expect(SocketDiag.parseUnix(whole[..<15]) == nil)
        #expect(SocketDiag.parseUnix(whole[..<20]) == nil)  // its attribute claims 8 bytes
        #expect(SocketDiag.parseUnix((Array(whole[..<16]) + [3, 0, 0, 0])[...]) == nil)
    }

    @Test("of a closed connection that still waits for its peer an end can be made; not of one that somebody has, nor of a listener") func orphans() throws {
        func socket() throws -> FileDescriptor { try FileDescriptor.socket(2, 1) }
        let listener = try socket()
        try listener.bind(InetAddress(host: "127.0.0.1", port: 0)!.socketAddress)
        try listener.listen(2)
        let place = try #require(InetAddress(try listener.localAddress()))
        var client: FileDescriptor? = try socket()
        try client!.connect(place.socketAddress)
        let server = try listener.accept(), peer = try #require(InetAddress(try client!.localAddress()))
        #expect(try !SocketDiag.destroyOrphan(from: peer, to: place))
        #expect(try !SocketDiag.destroyOrphan(from: place, to: peer))
        client = nil  // FIN-WAIT-2: the server has not closed
        #expect(try SocketDiag.destroyOrphan(from: peer, to: place))
        #expect(try !SocketDiag.destroyOrphan(from: peer, to: place))
        #expect(try server.status().type == S_IFSOCK)
        let again = try socket()
        try again.connect(place.socketAddress)
    }

    @Test("messages: an error is thrown, a wrong length refused, the end seen")
    func messages() throws {
        func message(_ type: UInt8, _ body: [UInt8]) -> [UInt8] { [UInt8(16 + body.count), 0, 0, 0, type, 0, 0, 0] + [UInt8](repeating: 0, count: 8) + body }
        var bodies = 0
        #expect(try SocketDiag.parseMessages(message(20, [1, 2, 3, 4]) + message(3, [0, 0, 0, 0])) { _ in bodies += 1 } == .done)
        #expect(bodies == 1)
        let error = #expect(throws: SyscallError.self) { try SocketDiag.parseMessages(message(2, [0xfe, 0xff, 0xff, 0xff])) { _ in } }
        #expect(error?.errno == Errno(ENOENT))
        let end = #expect(throws: SyscallError.self) { try SocketDiag.parseMessages(message(3, [0xfe, 0xff, 0xff, 0xff])) { _ in } }
        #expect(end?.errno == Errno(ENOENT))
        #expect(throws: SyscallError.self) { try SocketDiag.parseMessages([8, 0, 0, 0] + [UInt8](repeating: 0, count: 12)) { _ in } }
        #expect(throws: SyscallError.self) { try SocketDiag.parseMessages([100, 0, 0, 0] + [UInt8](repeating: 0, count: 12)) { _ in } }
    }

    @Test("the kernel lists a pair with each other as peers")
    func pair() throws {
        let (a, b) = try FileDescriptor.socketPair(AF_UNIX, 1)
        let list = try SocketDiag.unixSockets()
        let first = UInt32(try a.status().inode), second = UInt32(try b.status().inode)
        #expect(list.first { $0.inode == first }?.peer == second)
        #expect(list.first { $0.inode == second }?.peer == first)
    }

    @Test("a netlink socket's answer: address, peer, groups, whether a dump goes on; cut short anywhere it is never read past its end")
    func netlink() throws {
        let head: [UInt8] = [16, 3, 15, 1, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0x39, 0x30, 0, 0] + [UInt8](repeating: 0, count: 8)
        let whole = head + [12, 0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 8, 0, 4, 0, 1, 0, 0, 0]
        let info = try #require(SocketDiag.parseNetlink(whole[...]))
        #expect(info == NetlinkSocketInfo(inode: 12345, protocol: 15, state: 1, port: 7, peerPort: 8, peerGroup: 9, groups: [1, 2], answering: true))
        for count in 0..<whole.count { _ = SocketDiag.parseNetlink(whole[..<count]) }
        #expect(SocketDiag.parseNetlink(whole[..<20]) == nil)
        #expect(SocketDiag.parseNetlink(whole[..<35]) == nil)
    }

    @Test("a packet socket's answer: options, memberships, rings; cut short anywhere it is never read past its end")
    func packet() throws {
        func words(_ values: UInt32...) -> [UInt8] { values.flatMap { little32($0) } }
        func attribute(_ type: UInt8, _ value: [UInt8]) -> [UInt8] { [UInt8(4 + value.count), 0, type, 0] + value }
        let head: [UInt8] = [17, 3, 0xb5, 0x88] + words(12345, 0, 0)
        let member = words(2, 3, 1 | 6 << 16) + [1, 2, 3, 4, 5, 6] + [UInt8](repeating: 0, count: 26)
        let whole = head + attribute(0, words(2, 1, 32, 0, 16, 6)) + attribute(1, member) + attribute(2, words(4096, 2, 2048, 4, 60, 0, 0)) + attribute(4, words(7))
        let info = try #require(SocketDiag.parsePacket(whole[...]))
        #expect(info.inode == 12345 && info.protocol == 0x88b5 && info.interface == 2 && info.version == 1 && info.reserve == 32 && info.flags == 6)
        #expect(info.memberships == [.init(interface: 2, type: 1, address: [1, 2, 3, 4, 5, 6], count: 3)])
        #expect(info.receiveRing?.bytes == 8192 && info.receiveRing?.retireTimeout == 60 && info.transmitRing == nil && info.fanout == 7)
        for count in 0..<whole.count { _ = SocketDiag.parsePacket(whole[..<count]) }
        #expect(SocketDiag.parsePacket(whole[..<15]) == nil)
    }

    @Test("the kernel lists netlink and packet sockets of ours")
    func listed() throws {
        let netlink = try FileDescriptor.socket(AF_NETLINK, 3, 0)
        try netlink.bind(SocketAddress(bytes: [16] + [UInt8](repeating: 0, count: 11)))
        let inode = UInt32(try netlink.status().inode)
        #expect(try SocketDiag.netlinkSockets().contains { $0.inode == inode && $0.protocol == 0 && $0.port != 0 })
    }

    @Test("the tables of raw and ping sockets: addresses, state, inode; lines cut short are left out")
    func tables() throws {
        let four = """
              sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
               1: 0100007F:0001 0200A8C0:0000 01 00000000:00000000 00:00000000 00000000  1000        0 4711 2 0000000000000000 0
               2: 0100007F:0001 0200A8C0
            """
        let found = SocketTable.parse(four)
        #expect(found.count == 1)
        #expect(found[0].local.description == "127.0.0.1:1" && found[0].peer.description == "192.168.0.2:0")
        #expect(found[0].state == 1 && found[0].inode == 4711 && found[0].uid == 1000)
        let six = "head\n 0: 00000000000000000000000001000000:003A 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 5 2 0 0\n"
        #expect(SocketTable.parse(six).first?.local.description == "[::1]:58")
        for count in 0..<four.count { _ = SocketTable.parse(String(four.prefix(count))) }
    }

    @Test("multicast groups by interface")
    func groups() {
        let four = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n2\teth0 : 1 V3\n\t\t\t\t030201EF     1 0:00000000\t\t0\n"
        #expect(MulticastGroup.parse4(four).map { "\($0.interface) \($0.address.host)" } == ["1 224.0.0.1", "2 239.1.2.3"])
        let six = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n"
        #expect(MulticastGroup.parse6(six).map { "\($0.interface) \($0.address.host)" } == ["1 ff02::1"])
    }
}
