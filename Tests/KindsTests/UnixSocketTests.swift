import Glibc
import ImageMessages
import Kinds
import Linux
import Testing

@Suite("unix sockets", .serialized) struct UnixSocketTests {
    static let stream: Int32 = 1, datagram: Int32 = 2, sequenced: Int32 = 5
    func text(_ socket: FileDescriptor, _ room: Int = 100) throws -> String? {
        try socket.receive(room: room, flags: 0x40).map { String(decoding: $0.bytes, as: UTF8.self) }
    }
    func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }
    func abstract(_ name: String) -> SocketAddress { SocketAddress(unix: [0] + Array("stasis-test-\(getpid())-\(name)".utf8)) }
    func path(_ path: String) -> SocketAddress { SocketAddress(unix: Array(path.utf8) + [0]) }

    @Test("a pair keeps its queue and stays connected both ways", arguments: [stream, datagram, sequenced])
    func pair(type: Int32) throws {
        let after = try RoundTrip().roundTrip {
            let (a, b) = try FileDescriptor.socketPair(AF_UNIX, type)
            try a.send(bytes("one"))
            try a.send(bytes("two"))
            return [a, b]
        }
        #expect(try text(after[1]) == (type == Self.stream ? "onetwo" : "one"))
        if type != Self.stream { #expect(try text(after[1]) == "two") }
        #expect(try text(after[1]) == nil)
        try after[1].send(bytes("back"))
        #expect(try text(after[0]) == "back")
    }

    @Test("a dump leaves the queue and the peek offset as they were", arguments: [stream, datagram, sequenced])
    func untouched(type: Int32) throws {
        let trip = try RoundTrip()
        let (a, b) = try FileDescriptor.socketPair(AF_UNIX, type)
        try a.send(bytes("one"), descriptors: [b])
        try trip.dump([a, b])
        try trip.dump([a, b])
        #expect(try b.intOption(SocketOption.peekOffset) == -1)
        let message = try #require(try b.receive(room: 10, flags: 0x40))
        #expect(message.bytes == bytes("one") && message.descriptors.count == 1)
        #expect(try b.receive(room: 10, flags: 0x40) == nil)
    }

    @Test("descriptors hang on the byte they were sent with")
    func descriptorsInStream() throws {
        let after = try RoundTrip().roundTrip {
            let (a, b) = try FileDescriptor.socketPair(AF_UNIX, Self.stream)
            let (c, _) = try FileDescriptor.socketPair(AF_UNIX, Self.stream)
            try a.send(bytes("before"))
            try a.send(bytes("with"), descriptors: [a, c])
            try a.send(bytes("after"))
            return [a, b]
        }
        // A read ends with the part that descriptors hang on, and takes them once it touches that part.
        let first = try #require(try after[1].receive(room: 6, flags: 0))
        #expect(first.bytes == bytes("before") && first.descriptors.isEmpty)
        let second = try #require(try after[1].receive(room: 100, flags: 0))
        #expect(second.bytes == bytes("with"))
        try #require(second.descriptors.count == 2)
        #expect(try second.descriptors[0].status().inode == after[0].status().inode)
        #expect(try text(after[1]) == "after")
    }

    @Test("a long queue comes back whole", arguments: [70_000, 200_000])
    func longQueue(count: Int) throws {
        let sent = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 7) }
        let after = try RoundTrip().roundTrip {
            let (a, b) = try FileDescriptor.socketPair(AF_UNIX, Self.stream)
            try a.setOption(SocketOption.sendBufferForce, to: Int32(1 << 20))
            #expect(try a.send(sent, flags: 0x40) == count)
            return [a, b]
        }
        var got = [UInt8]()
        while let part = try after[1].receive(room: 1 << 16, flags: 0x40) { got += part.bytes }
        #expect(got == sent)
        #expect(try after[0].intOption(SocketOption.sendBuffer) == 2 << 20)
    }

    @Test("server, clients and connections that wait keep names and order", arguments: [true, false])
    func server(abstractName: Bool) throws {
        let file = "/tmp/stasis-test-\(getpid())-server"
        defer { _ = try? Files.unlink(file) }
        let name = abstractName ? abstract("server") : path(file), own = abstract("client")
        let trip = try RoundTrip()
        let after = try trip.roundTrip {
            let server = try FileDescriptor.socket(AF_UNIX, Self.stream), client = try FileDescriptor.socket(AF_UNIX, Self.stream)
            let second = try FileDescriptor.socket(AF_UNIX, Self.stream), waiting = try FileDescriptor.socket(AF_UNIX, Self.stream)
            try server.bind(name)
            if !abstractName { try Files.setMode(file, 0o640) }
            try server.listen(3)
            try client.bind(own)
            try client.connect(name)
            let accepted = try server.accept()
            try second.connect(name)
            let acceptedSecond = try server.accept()
            try waiting.connect(name)
            try client.send(bytes("hello"))
            return [accepted, client, server, waiting, second, acceptedSecond]
        }
        #expect(try after[0].localAddress() == name)
        #expect(try after[0].peerAddress() == own)
        #expect(try after[1].localAddress() == own)
        #expect(try after[1].peerAddress() == name)
        #expect(try after[4].peerAddress() == name)
        #expect(try after[4].localAddress().unixName.isEmpty)
        #expect(try after[5].localAddress() == name)
        #expect(try text(after[0]) == "hello")
        if !abstractName { #expect(try Files.status(file).mode & 0o777 == 0o640) }
        let late = try after[2].accept()
        try late.send(bytes("at last"))
        #expect(try text(after[3]) == "at last")
        let more = try FileDescriptor.socket(AF_UNIX, Self.stream)
        try more.connect(name)
        #expect(try SocketDiag.unixSockets().first { $0.inode == UInt32(try! after[2].status().inode) }?.writeQueue == 3)
    }

    @Test("accepted sockets keep the name of a listener that is gone, its file gone or not", arguments: [true, false])
    func listenerGone(deleted: Bool) throws {
        let file = "/tmp/stasis-test-\(getpid())-gone"
        defer { _ = try? Files.unlink(file) }
        let after = try RoundTrip().roundTrip {
            let server = try FileDescriptor.socket(AF_UNIX, Self.sequenced)
            try server.bind(path(file))
            try server.listen(3)
            var all = [FileDescriptor]()
            for _ in 0..<2 {
                let client = try FileDescriptor.socket(AF_UNIX, Self.sequenced)
                try client.connect(path(file))
                all += [client, try server.accept()]
            }
            if deleted { try Files.unlink(file) }
            return all
        }
        for at in [0, 2] {
            #expect(try after[at].peerAddress() == path(file))
            #expect(try after[at + 1].localAddress() == path(file))
            try after[at].send(bytes("x\(at)"))
            #expect(try text(after[at + 1]) == "x\(at)")
        }
        #expect(((try? Files.status(file)) == nil) == deleted)
    }

    @Test("a deleted name and a living one of the same path both come back")
    func deletedName() throws {
        let file = "/tmp/stasis-test-\(getpid())-twice"
        defer { _ = try? Files.unlink(file) }
        let after = try RoundTrip().roundTrip {
            let old = try FileDescriptor.socket(AF_UNIX, Self.datagram), new = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            let toOld = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            try old.bind(path(file))
            try toOld.connect(path(file))
            try Files.unlink(file)
            try new.bind(path(file))
            return [new, old, toOld]
        }
        for one in after.prefix(2) { #expect(try one.localAddress() == path(file)) }
        try after[2].send(bytes("for the old"))
        #expect(try text(after[1]) == "for the old")
        let other = try FileDescriptor.socket(AF_UNIX, Self.datagram)
        try other.send(bytes("for the new"), to: path(file))
        #expect(try text(after[0]) == "for the new")
    }

    @Test("a relative name stays relative")
    func relativeName() throws {
        let directory = "/tmp/stasis-test-\(getpid())-dir"
        _ = try? Files.makeDirectory(directory)
        defer {
            _ = try? Files.unlink(directory + "/s")
            _ = try? Files.unlink(directory, flags: AT_REMOVEDIR)
        }
        let after = try RoundTrip().roundTrip {
            let home = try FileDescriptor.open(".", O_RDONLY)
            try Files.enter(try FileDescriptor.open(directory, O_RDONLY))
            defer { _ = try? Files.enter(home) }
            let socket = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            try socket.bind(path("s"))
            return [socket]
        }
        #expect(try after[0].localAddress() == path("s"))
        try FileDescriptor.socket(AF_UNIX, Self.datagram).send(bytes("hi"), to: path(directory + "/s"))
        #expect(try text(after[0]) == "hi")
    }

    @Test("datagram sockets: a bound one with a queue, one that is connected to it, and a chain")
    func datagrams() throws {
        let (a, b) = (abstract("a"), abstract("b"))
        let after = try RoundTrip().roundTrip {
            let first = try FileDescriptor.socket(AF_UNIX, Self.datagram), second = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            let third = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            try first.bind(a)
            try second.bind(b)
            try third.connect(b)
            try third.send(bytes("early"))
            try second.connect(a)
            try second.send(bytes("queued"))
            try second.send([])
            try second.send(bytes("more"))
            return [first, second, third]
        }
        #expect(try text(after[0]) == "queued")
        #expect(try text(after[0]) == "")
        #expect(try text(after[0]) == "more")
        #expect(try after[1].peerAddress() == a)
        #expect(try after[2].peerAddress() == b)
        try after[1].send(bytes("x"))
        #expect(try text(after[0]) == "x")
        #expect(throws: SyscallError.self) { try after[2].send(bytes("y")) }  // connected before its target connected elsewhere
    }

    @Test("datagrams tell who sent them: name and credentials, of a socket of the tree and of one that is gone")
    func senders() throws {
        let (a, b) = (abstract("receiver"), abstract("sender")), gone = path("/tmp/stasis-test-\(getpid())-sender")
        let after = try RoundTrip().roundTrip {
            let receiver = try FileDescriptor.socket(AF_UNIX, Self.datagram), sender = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            try receiver.bind(a)
            try receiver.setOption(SocketOption.passCredentials, to: Int32(1))
            try sender.bind(b)
            try sender.send(bytes("1"), credentials: SocketCredentials(pid: 1, uid: 7, gid: 8), to: a)
            let temporary = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            try temporary.bind(gone)
            try temporary.send(bytes("2"), to: a)
            try Files.unlink(UnixNameOf.path(gone))
            try FileDescriptor.socket(AF_UNIX, Self.datagram).send(bytes("3"), to: a)
            return [receiver, sender]
        }
        let got = try (0..<3).map { _ in try #require(try after[0].receive(room: 10, flags: 0x40)) }
        #expect(got.map(\.bytes) == [bytes("1"), bytes("2"), bytes("3")])
        #expect(got[0].sender == b && got[1].sender == gone && got[2].sender.unixName.isEmpty)
        #expect(got[0].credentials == SocketCredentials(pid: 1, uid: 7, gid: 8))
        #expect(got[1].credentials == SocketCredentials(pid: getpid(), uid: geteuid(), gid: getegid()))
    }
    private enum UnixNameOf { static func path(_ address: SocketAddress) -> String { String(decoding: address.unixName.prefix { $0 != 0 }, as: UTF8.self) } }

    @Test("shutdown, a closed peer and what it left")
    func shutdown() throws {
        let after = try RoundTrip().roundTrip {
            let (a, b) = try FileDescriptor.socketPair(AF_UNIX, Self.stream)
            try a.send(bytes("rest"))
            try a.shutdown(1)
            var orphan: FileDescriptor
            do {
                let (c, d) = try FileDescriptor.socketPair(AF_UNIX, Self.sequenced)
                try d.send(bytes("last words"))
                orphan = c
            }
            let (left, gone) = try FileDescriptor.socketPair(AF_UNIX, Self.datagram)
            try gone.send(bytes("datagram"))
            return [a, b, orphan, try FileDescriptor.socket(AF_UNIX, Self.stream), left]
        }
        #expect(try text(after[4]) == "datagram")
        #expect(throws: SyscallError.self) { try after[4].send(bytes("nobody")) }
        #expect(try text(after[1]) == "rest")
        #expect(try text(after[1]) == "")
        try after[1].send(bytes("still"))
        #expect(try text(after[0]) == "still")
        #expect(throws: SyscallError.self) { try after[0].send(bytes("no")) }
        #expect(try text(after[2]) == "last words")
        #expect(try text(after[2]) == "")
        #expect(throws: SyscallError.self) { try after[2].send(bytes("nobody")) }
    }

    @Test("options and status flags")
    func options() throws {
        struct Time: BitwiseCopyable { var seconds: Int64, microseconds: Int64 }
        let after = try RoundTrip().roundTrip {
            let socket = try FileDescriptor.socket(AF_UNIX, Self.datagram | 0x800)
            try socket.setOption(SocketOption.passCredentials, to: Int32(1))
            try socket.setOption(SocketOption.sendBuffer, to: Int32(54321))
            try socket.setOption(SocketOption.receiveTimeout, to: Time(seconds: 5, microseconds: 0))
            try socket.setOption(SocketOption.priority, to: Int32(3))
            try socket.setOption(SocketOption.linger, to: (Int32(1), Int32(7)))
            try socket.attachFilter([0x0000_ffff_0000_0006])
            return [socket]
        }
        #expect(try after[0].intOption(SocketOption.passCredentials) == 1)
        #expect(try after[0].intOption(SocketOption.sendBuffer) == 2 * 54321)
        #expect(try after[0].intOption(SocketOption.bufferLock) == 1)
        #expect(try after[0].intOption(SocketOption.priority) == 3)
        #expect(try after[0].filterLength() == 1)
        #expect(try after[0].option(SocketOption.attachFilter, room: 8, claiming: 1) == [6, 0, 0, 0, 0xff, 0xff, 0, 0])
        #expect(try after[0].control(F_GETFL) & 0x800 != 0)
        var time = Time(seconds: 0, microseconds: 0)
        try after[0].option(SocketOption.receiveTimeout, into: &time)
        #expect(time.seconds == 5)
        var linger: (Int32, Int32) = (0, 0)
        try after[0].option(SocketOption.linger, into: &linger)
        #expect(linger == (1, 7))
    }

    @Test("a peer outside the tree is refused by name, and connected to again where allowed")
    func external() throws {
        let name = abstract("outside")
        let server = try FileDescriptor.socket(AF_UNIX, Self.datagram)
        try server.bind(name)
        let trip = try RoundTrip()
        let make = {
            let client = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            try client.connect(name)
            return client
        }
        let error = #expect(throws: CheckpointError.self) { try trip.dump([try make()]) }
        #expect(error?.cause.contains("stasis-test-\(getpid())-outside") == true && error?.remedy?.contains("--external unix[") == true)
        trip.dumpSettings.externalUnixSockets = true
        try trip.dump([try make()])
        let refused = #expect(throws: CheckpointError.self) { try trip.restore() }
        #expect(refused?.remedy?.contains("--ext-unix-sk") == true)
        trip.restoreSettings.externalUnixSockets = true
        let after = try trip.restore()
        try after[0].send(bytes("hello again"))
        #expect(try text(server) == "hello again")
    }

    @Test("a file in the way: a stale socket is replaced, anything else is refused")
    func inTheWay() throws {
        let file = "/tmp/stasis-test-\(getpid())-way"
        defer { _ = try? Files.unlink(file) }
        let trip = try RoundTrip()
        do {
            let socket = try FileDescriptor.socket(AF_UNIX, Self.datagram)
            try socket.bind(path(file))
            try trip.dump([socket])
        }
        let after = try trip.restore()
        #expect(try after[0].localAddress() == path(file))
        try Files.unlink(file)
        try Files.write("precious", to: file, flags: O_WRONLY | O_CREAT)
        #expect(throws: CheckpointError.self) { try trip.restore() }
        #expect(try Files.text(file) == "precious")
    }
}
