package import Cryptography
package import Kinds
package import Linux

/// What goes between a dump, a page server and a lazy-pages daemon (format README, 10).
package struct PageRequest: Equatable, Sendable {
    package enum Command: UInt16, Sendable {
        case add = 1, hole = 2, open = 3, openWithAnswer = 4, parent = 5, addWithFlags = 6, get = 7, close = 0x1023, forceClose = 0x1024
    }
    package static let size = 32

    package var command: Command
    /// pagemap_entry.flags.
    package var flags: UInt16 = 0
    package var pages: UInt64 = 0
    /// An address, or the offset in a segment.
    package var address: UInt64 = 0
    /// (id << 8) | type; of GET the bare pid.
    package var subject: UInt64 = 0

    package init(_ command: Command, flags: UInt16 = 0, pages: UInt64 = 0, address: UInt64 = 0, subject: UInt64 = 0) {
        (self.command, self.flags, self.pages, self.address, self.subject) = (command, flags, pages, address, subject)
    }

    /// Nil for what is no request.
    package init?(_ bytes: [UInt8]) {
        guard bytes.count == Self.size else { return nil }
        guard let command = Command(rawValue: UInt16(truncatingIfNeeded: bytes.word(UInt64.self, at: 0))) else { return nil }
        self.init(command, flags: UInt16(truncatingIfNeeded: bytes.word(UInt64.self, at: 0) >> 16), pages: bytes.word(UInt64.self, at: 8), address: bytes.word(UInt64.self, at: 16), subject: bytes.word(UInt64.self, at: 24))
    }

    package var bytes: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Self.size)
        bytes.put([UInt64(command.rawValue) | UInt64(flags) << 16, pages, address, subject], at: 0)
        return bytes
    }

    /// Bytes of memory it speaks of; nil where they are no pages of an address space or of a file.
    package var range: Range<UInt64>? {
        let (length, tooMany) = pages.multipliedReportingOverflow(by: 4096)
        let (end, pastEnd) = address.addingReportingOverflow(length)
        guard !tooMany, !pastEnd, end <= UInt64(Int64.max), address % 4096 == 0 else { return nil }
        return address..<end
    }
}

extension PageSubject {
    /// As dst_id says it.
    package var wireNumber: UInt64 {
        switch self {
        case .task(let pid): UInt64(pid) << 8 | 1
        case .segment(let id): id << 8 | 2
        }
    }
    /// Also with the type codes of older versions.
    package init?(wireNumber: UInt64) {
        let id = wireNumber >> 8
        switch wireNumber & 0xff {
        case 1, 10, 11, 16, 17:
            guard let pid = UInt32(exactly: id), pid > 0, pid <= 4 << 20 else { return nil }
            self = .task(pid)
        case 2, 27, 28, 29, 32, 33, 34: self = .segment(id)
        default: return nil
        }
    }
}

/// A connection on which requests and pages go.
package struct PageConnection: Sendable {
    package let input: any ByteStream
    /// What is sent goes here: the same, but for a pair of pipes.
    package let output: any ByteStream
    package var socket: FileDescriptor { input.descriptor }
    package init(_ stream: any ByteStream, output: (any ByteStream)? = nil) {
        (input, self.output) = (stream, output ?? stream)
        // An answer is a head and pages: held back for the acknowledgement of the head, each would take 40 ms. A unix socket holds nothing back.
        try? socket.setOption(1, level: 6 /* IPPROTO_TCP, TCP_NODELAY */, to: Int32(1))
    }

    package func send(_ request: PageRequest) throws { try output.writeAll(request.bytes) }

    /// Exactly `count` bytes; nil when the other end closed before the first, an error when it did later.
    package func receive(_ count: Int) throws -> [UInt8]? {
        var bytes = [UInt8]()
        while bytes.count < count {
            let more = try input.readSome(count - bytes.count)
            if more.isEmpty {
                if bytes.isEmpty { return nil }
                throw wasCut
            }
            bytes += more
        }
        return bytes
    }
    /// The same where an answer is due.
    package func expect(_ count: Int) throws -> [UInt8] {
        guard let bytes = try receive(count) else { throw wasCut }
        return bytes
    }
    package func expectNumber() throws -> Int32 { try expect(4).word(at: 0) }
    package func send(number: Int32) throws { try output.writeAll(little32(UInt32(bitPattern: number))) }
    package var wasCut: SyscallError { SyscallError("read", .fd(socket.number), 104 /* ECONNRESET */) }
}

/// Where a page server is, or is to listen.
package enum PageServerPlace: Sendable {
    /// A host by name or address; nil: this one.
    case address(String?, port: UInt16, TLSCredentials? = nil)
    /// --ps-socket: a connected socket of our caller's.
    case socket(Int32, TLSCredentials? = nil, name: String? = nil)
    /// One that is used for more than that.
    case connection(PageConnection)

    /// Whether who has made the connection closes it, rather than we.
    package var isHandedOver: Bool { if case .address = self { false } else { true } }
    /// Says that no more pages come, when all has been answered.
    func end(_ connection: PageConnection) {
        if case .connection = self { return }
        connection.output.sayEnd()
    }

    package func connect() throws -> PageConnection {
        switch self {
        case .connection(let connection): return connection
        case .socket(let number, let credentials, let name):
            return try CheckpointError.about("talk to", .object("the page server on descriptor \(number)")) { try Self.secure(FileDescriptor(owning: number), by: credentials, to: name) }
        case .address(let given, let port, let credentials):
            let host = given ?? "127.0.0.1", name = "page server \(host) port \(port)"
            guard let address = InetAddress(host: host, port: port)?.socketAddress else {
                throw CheckpointError("connect to", .object(name), "there is no such host", remedy: "check the name in --address, or give an address: 192.0.2.1 or 2001:db8::1")
            }
            return try CheckpointError.about("connect to", .object(name), remedy: "start stasis page-server there first") {
                let socket = try FileDescriptor.socket(Int32(address.family), 1)
                try socket.connect(address)
                return try Self.secure(socket, by: credentials, to: host)
            }
        }
    }

    private static func secure(_ socket: FileDescriptor, by credentials: TLSCredentials?, to name: String?) throws -> PageConnection {
        PageConnection(try credentials?.connect(socket, to: name) ?? socket)
    }

    /// Listens; the port is the one asked for, or a free one for 0.
    package func listen() throws -> (FileDescriptor, port: UInt16) {
        guard case .address(let given, let port, _) = self else { preconditionFailure("a connected socket does not listen") }
        let host = given ?? "0.0.0.0"
        guard let address = InetAddress(host: host, port: port)?.socketAddress else {
            throw CheckpointError("listen on", .object("address \(host)"), "there is no such host", remedy: "an address of this machine with --address")
        }
        return try CheckpointError.about("listen on", .object("\(host) port \(port)"), remedy: "another --port, or 0 for a free one") {
            let socket = try FileDescriptor.socket(Int32(address.family), 1)
            try socket.setOption(SocketOption.reuseAddress, to: Int32(1))
            try socket.bind(address)
            try socket.listen(1)
            return (socket, InetAddress(try socket.localAddress())?.port ?? port)
        }
    }
}
