import Linux
import Testing

@Suite("inet addresses") struct InetAddressTests {
    @Test("are written as people write them", arguments: [
        "127.0.0.1", "::", "::1", "fe80::1", "2001:db8::8:800:200c:417a", "2001:db8:0:1:1:1:1:1", "::ffff:10.1.2.3", "1::2:0:0:3",
    ])
    func text(text: String) throws {
        #expect(try #require(InetAddress(text: text)).host == text)
    }
    @Test("that are none are refused", arguments: ["", "1.2.3", "1.2.3.400", "1:2", "1:2:3:4:5:6:7:8:9", "x::", "::1::", "1::2::3", "12345::"])
    func refused(text: String) { #expect(InetAddress(text: text) == nil) }

    @Test("go through struct sockaddr and come back")
    func roundTrip() throws {
        var six = try #require(InetAddress(text: "fe80::2", port: 4711))
        six.scope = 3
        #expect(InetAddress(six.socketAddress) == six)
        #expect("\(six)" == "[fe80::2%3]:4711")
        let four = try #require(InetAddress(text: "10.9.8.7", port: 80))
        #expect(InetAddress(four.socketAddress) == four)
        #expect("\(four)" == "10.9.8.7:80")
        #expect(try #require(InetAddress(text: "::ffff:10.9.8.7", port: 80)).unmapped == four)
    }
    @Test("cut short are none")
    func short() {
        #expect(InetAddress(SocketAddress(bytes: [2, 0, 0, 80])) == nil)
        #expect(InetAddress(SocketAddress(bytes: [10, 0, 0, 80, 0, 0, 0, 0])) == nil)
    }
}

@Suite("sock_diag of inet sockets") struct InetDiagTests {
    @Test("lists a listener with its address, backlog and inode")
    func listener() throws {
        let socket = try FileDescriptor.socket(2, 1)
        try socket.bind(try #require(InetAddress(text: "127.0.0.1")).socketAddress)
        try socket.listen(7)
        let address = try #require(InetAddress(try socket.localAddress()))
        let inode = UInt32(truncatingIfNeeded: try socket.status().inode)
        let found = try #require(SocketDiag.inetSockets(family: 2, protocol: 6).first { $0.inode == inode })
        #expect(found.local == address && found.state == 10 && found.writeQueue == 7 && found.readQueue == 0)
    }
}
