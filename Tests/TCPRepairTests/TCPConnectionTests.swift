import Glibc
import Linux
import TCPRepair
import Testing

/// Two ends of a connection over loopback, in this process.
struct LoopbackPair {
    let client: FileDescriptor
    var server: FileDescriptor
    init(_ family: UInt16 = InetAddress.ipv4, listener: UInt16? = nil) throws {
        let listening = try FileDescriptor.socket(Int32(listener ?? family), 1)
        let mapped = listener == InetAddress.ipv6 && family == InetAddress.ipv4
        let any = mapped ? InetAddress(anyOf: InetAddress.ipv6) : InetAddress(text: family == InetAddress.ipv4 ? "127.0.0.1" : "::1")!
        try listening.setOption(SocketOption.reuseAddress, to: Int32(1))
        try listening.bind(any.socketAddress)
        try listening.listen(1)
        let port = InetAddress(try listening.localAddress())!.port
        client = try FileDescriptor.socket(Int32(family), 1)
        try client.connect(InetAddress(text: family == InetAddress.ipv4 ? "127.0.0.1" : "::1", port: port)!.socketAddress)
        server = try listening.accept()
    }
}

/// Kernel tests: they need CAP_NET_ADMIN and CAP_NET_RAW, and a kernel with nf_tables.
@Suite("a TCP connection", .serialized) struct TCPConnectionTests {
    static func state(_ socket: FileDescriptor) throws -> UInt8 { try socket.option(11, level: 6, room: 8)[0] }
    static func wait(for state: UInt8, _ socket: FileDescriptor) throws {
        for _ in 0..<2000 where try Self.state(socket) != state { usleep(1000) }
        #expect(try Self.state(socket) == state)
    }
    /// Bytes to read (SIOCINQ).
    static func waiting(_ socket: FileDescriptor) throws -> Int {
        var count: Int32 = 0
        try socket.ioctl("SIOCINQ", 0x541b, &count)
        return Int(count)
    }
    static func bytes(_ count: Int, seed: UInt8 = 1) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ Int(seed)) } }
    static func read(_ count: Int, _ socket: FileDescriptor) throws -> [UInt8] {
        var all = [UInt8]()
        while all.count < count {
            let more = try socket.read(count - all.count)
            if more.isEmpty { break }
            all += more
        }
        return all
    }

    /// Takes the connection out of `socket` and puts it into a fresh one, under a lock, as between two processes.
    static func handOver(_ socket: inout FileDescriptor, family: UInt16, change: (inout TCPConnection) -> Void = { _ in }) throws -> TCPConnection {
        let local = InetAddress(try socket.localAddress())!, peer = InetAddress(ofPeer: socket)!
        let lock = try ConnectionLock([.init(local: local, peer: peer)], name: "stasis-test-\(getpid())-\(socket.number)")
        let paused = try PausedSockets([socket])
        var saved = try TCPConnection(of: socket)
        paused.abandon()
        socket = try FileDescriptor.socket(Int32(family), 1)  // the old one is closed by this
        change(&saved)
        let restored = try RestoredConnection(saved, on: socket)
        lock.lift()
        try restored.resume()
        return saved
    }

    @Test("goes on in another socket, with what waits in both queues", arguments: [(InetAddress.ipv4, InetAddress.ipv4), (InetAddress.ipv6, InetAddress.ipv6), (InetAddress.ipv4, InetAddress.ipv6)])
    func handsOver(family: UInt16, listener: UInt16) throws {
        var pair = try LoopbackPair(family, listener: listener)
        let (client, there, back) = (pair.client, Self.bytes(100_000), Self.bytes(3000, seed: 9))
        try client.write(there)
        try pair.server.write(back)
        for _ in 0..<500 where try Self.waiting(pair.server) < there.count { usleep(1000) }
        let saved = try Self.handOver(&pair.server, family: listener)
        let server = pair.server
        #expect(saved.receiveQueue == there && saved.state == .established)
        #expect(try Self.read(back.count, client) == back)
        #expect(try Self.read(there.count, server) == there)
        try server.write(there)
        #expect(try Self.read(there.count, client) == there)
        try client.write(back)
        #expect(try Self.read(back.count, server) == back)
    }

    @Test("sends what the peer had no room for")
    func unsent() throws {
        var pair = try LoopbackPair()
        try pair.client.setOption(SocketOption.receiveBuffer, to: Int32(4096))
        try pair.server.setOption(SocketOption.sendBuffer, to: Int32(65536))
        try pair.server.control(F_SETFL, Int(O_NONBLOCK))
        var written = 0
        let chunk = Self.bytes(10_000)
        while let sent = try? pair.server.send(chunk) { written += sent }
        let saved = try Self.handOver(&pair.server, family: 2)
        #expect(saved.unsent > 0)
        try pair.client.setOption(SocketOption.receiveBuffer, to: Int32(1 << 20))
        let got = try Self.read(written, pair.client)
        #expect(got.count == written)
        let tail = try pair.client.receive(room: 10, flags: 0x40)
        #expect(tail == nil, "nothing comes twice")
    }

    @Test("is watched: out of repair mode when the value is lost, and SO_REUSEADDR as before")
    func guarded() throws {
        let pair = try LoopbackPair()
        try pair.client.setOption(SocketOption.reuseAddress, to: Int32(1))
        do {
            let paused = try PausedSockets([pair.client])
            #expect(try pair.client.intOption(19, level: 6) == 1)
            _ = paused
        }
        #expect(try pair.client.intOption(19, level: 6) == 0)
        #expect(try pair.client.intOption(SocketOption.reuseAddress) == 1)
        try pair.client.write([1])
        #expect(try pair.server.read(1) == [1])
    }

    @Test("keeps its state when one or both ends are closed", arguments: [TCPConnection.State.closeWait, .finWait2, .closed])
    func halfClosed(state: TCPConnection.State) throws {
        var pair = try LoopbackPair()
        let (there, back) = (Self.bytes(500), Self.bytes(700, seed: 3))
        try pair.client.write(there)
        try pair.server.write(back)
        if state != .finWait2 { try pair.client.shutdown(1) }
        if state == .closed { try Self.wait(for: 8, pair.server) }
        if state != .closeWait {
            _ = try Self.read(700, pair.client)
            try pair.server.shutdown(1)
        }
        try Self.wait(for: state.rawValue, pair.server)
        let saved = try Self.handOver(&pair.server, family: 2)
        #expect(saved.state == state)
        #expect(try Self.state(pair.server) == state.rawValue)
        #expect(try Self.read(500, pair.server) == there)
        switch state {
        case .closeWait:
            #expect(try pair.server.read(1).isEmpty)
            try pair.server.write(back)
            #expect(try Self.read(1400, pair.client) == back + back)
        case .finWait2:
            try pair.client.write(back)
            #expect(try Self.read(700, pair.server) == back)
        default:
            #expect(try pair.server.read(1).isEmpty)
            #expect(throws: SyscallError.self) { try pair.server.send([1]) }
        }
    }

    @Test("a connection that is being made is made")
    func connecting() throws {
        let listener = try FileDescriptor.socket(2, 1)
        try listener.bind(InetAddress(text: "127.0.0.1")!.socketAddress)
        try listener.listen(1)
        let address = InetAddress(try listener.localAddress())!
        var client = try FileDescriptor.socket(2, 1)
        try client.bind(InetAddress(text: "127.0.0.1")!.socketAddress)
        let lock = try ConnectionLock([.init(local: InetAddress(try client.localAddress())!, peer: address)], name: "stasis-test-syn-\(getpid())")
        try client.control(F_SETFL, Int(O_NONBLOCK))
        #expect(throws: SyscallError.self) { try client.connect(address.socketAddress) }
        #expect(try Self.state(client) == TCPConnection.State.synSent.rawValue)
        _ = lock
        let saved = try Self.handOver(&client, family: 2)
        #expect(saved.state == .synSent)
        lock.lift()
        let server = try listener.accept()
        try Self.wait(for: 1, client)
        try client.write([5])
        #expect(try server.read(1) == [5])
    }
}

@Suite("a connection lock", .serialized) struct ConnectionLockTests {
    @Test("holds packets back, both ways, until it is lifted")
    func holds() throws {
        let pair = try LoopbackPair()
        let local = InetAddress(try pair.client.localAddress())!, peer = InetAddress(try pair.client.peerAddress())!
        let lock = try ConnectionLock([.init(local: local, peer: peer)], name: "stasis-test-lock-\(getpid())")
        try pair.client.write([1])
        try pair.server.write([2])
        usleep(20_000)
        #expect(try pair.server.receive(room: 1, flags: 0x40) == nil)
        #expect(try pair.client.receive(room: 1, flags: 0x40) == nil)
        lock.lift()
        #expect(try pair.server.read(1) == [1])
        #expect(try pair.client.read(1) == [2])
    }
    @Test("that is left is found by its name, and is stale as long as its task lives")
    func left() throws {
        let lock = try ConnectionLock([.init(local: InetAddress(text: "127.0.0.1", port: 1)!, peer: InetAddress(text: "127.0.0.1", port: 2)!)], name: "stasis-test-a-\(getpid())")
        let name = "stasis-test-b-\(getpid())"
        try lock.leave(as: name, unlessAlive: ThreadID(getppid()))
        lock.lift()
        #expect(try ConnectionLock.all().contains(name))
        #expect(try ConnectionLock.liftStale().contains(name))
        #expect(try ConnectionLock.lift(name) == false)
    }
}
