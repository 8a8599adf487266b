import CLinux
public import Cryptography
import Glibc
import Kinds
public import Linux
package import Pages

/// How to reach the destination.
public protocol MigrationTransport {
    /// A new connection to `stasis receive`, already authenticated: a `FileDescriptor` is one. Called again when the first connection was cut and
    /// the outcome has to be asked for.
    func connect() throws -> any ByteStream
}

/// The places that the command line knows: `ssh://[USER@]HOST[:PORT][/PROGRAM]`, `unix:PATH`, `HOST[:PORT]`.
public enum MigrationPlace: Equatable, Sendable, CustomStringConvertible, MigrationTransport {
    /// - Parameter program: stasis there; nil: the one in its PATH.
    case ssh(host: String, port: UInt16?, program: String?)
    case unix(path: String)
    case tcp(host: String, port: UInt16)
    public static let defaultPort: UInt16 = 7437

    public init?(_ text: String) {
        if text.hasPrefix("ssh://") {
            let rest = text.dropFirst(6), slash = rest.firstIndex(of: "/")
            guard let (host, port) = Self.hostAndPort(rest[..<(slash ?? rest.endIndex)]), !host.hasPrefix("-") else { return nil }
            self = .ssh(host: host, port: port, program: slash.map { String(rest[$0...]) })
        } else if text.hasPrefix("unix:") {
            guard text.utf8.count > 5, text.utf8.count < 5 + 108 else { return nil }
            self = .unix(path: String(text.dropFirst(5)))
        } else {
            guard let (host, port) = Self.hostAndPort(text[...]) else { return nil }
            self = .tcp(host: host, port: port ?? Self.defaultPort)
        }
    }

    /// "host", "host:1", "[::1]:1", "::1".
    private static func hostAndPort(_ text: Substring) -> (String, UInt16?)? {
        var host = text, port: UInt16?
        if text.hasPrefix("["), let end = text.firstIndex(of: "]") {
            host = text[text.index(after: text.startIndex)..<end]
            let rest = text[text.index(after: end)...]
            if !rest.isEmpty {
                guard rest.first == ":", let number = UInt16(rest.dropFirst()) else { return nil }
                port = number
            }
        } else if text.hasPrefix("[") {
            return nil
        } else if text.filter({ $0 == ":" }).count == 1, let colon = text.firstIndex(of: ":") {
            guard let number = UInt16(text[text.index(after: colon)...]) else { return nil }
            (host, port) = (text[..<colon], number)
        }
        return host.isEmpty || host.contains(where: \.isWhitespace) || host.contains("/") ? nil : (String(host), port)
    }

    public var description: String {
        switch self {
        case .ssh(let host, let port, let program): "ssh://\(host)" + (port.map { ":\($0)" } ?? "") + (program ?? "")
        case .unix(let path): "unix:\(path)"
        case .tcp(let host, let port): (host.contains(":") ? "[\(host)]" : host) + ":\(port)"
        }
    }
    /// By which name it is called.
    var host: String? {
        switch self {
        case .ssh(let host, _, _), .tcp(let host, _): host
        case .unix: nil
        }
    }
    /// Whether nobody knows who is at the other end, and others may read along.
    public var isOpen: Bool { if case .tcp = self { true } else { false } }

    public func connect() throws -> any ByteStream { try open() }

    private func open() throws -> FileDescriptor {
        switch self {
        case .ssh(let host, let port, let program):
            let (ours, its) = try FileDescriptor.socketPair(1, 1)
            let words = (port.map { ["-p", "\($0)"] } ?? []) + ["-o", "ServerAliveInterval=5", "--", host, program ?? "stasis", "receive", "--stdio"]
            try CheckpointError.about("start", .object("ssh to \(host)"), remedy: "install ssh") {
                _ = try Program.start("ssh", words, output: its, input: its, keepsErrors: true)
            }
            return ours
        case .unix(let path):
            let socket = try CheckpointError.about("connect to", .file(path), remedy: "start stasis receive --listen unix:\(path) there first") {
                let socket = try FileDescriptor.socket(1, 1)
                try socket.connect(SocketAddress(unix: Array(path.utf8) + [0]))
                return socket
            }
            try Self.checkPeer(of: socket, at: path)
            return socket
        case .tcp(let host, let port):
            guard let address = InetAddress(host: host, port: port)?.socketAddress else {
                throw CheckpointError("connect to", .object("\(self)"), "there is no such host", remedy: "check its name, or give its address")
            }
            return try CheckpointError.about("connect to", .object("\(self)"), remedy: "start stasis receive there first") {
                let socket = try FileDescriptor.socket(Int32(address.family), 1)
                try socket.setOption(SocketOption.sendTimeout, to: (Int64(10), Int64(0)))  // of connect(2), socket(7)
                try socket.connect(address)
                try socket.setOption(SocketOption.sendTimeout, to: (Int64(0), Int64(0)))
                return socket
            }
        }
    }

    /// The same user as we are, or root.
    fileprivate static func checkPeer(of socket: FileDescriptor, at path: String) throws {
        var peer = SocketCredentials()
        try socket.option(SocketOption.peerCredentials, into: &peer)
        guard peer.uid == geteuid() || peer.uid == 0 else {
            throw CheckpointError("trust", .file(path), "the process at its other end belongs to user \(peer.uid)", remedy: "run both ends as the same user")
        }
    }
}

/// A place of which both ends must prove who they are, and nobody can read along: TLS.
public struct SecuredPlace: MigrationTransport {
    let place: MigrationPlace, credentials: TLSCredentials
    public init(_ place: MigrationPlace, _ credentials: TLSCredentials) { (self.place, self.credentials) = (place, credentials) }

    public func connect() throws -> any ByteStream {
        let stream = try place.connect()
        return try CheckpointError.about("connect to", .object("\(place)")) { try credentials.connect(stream.descriptor, to: place.host) }
    }
}

/// Where a destination waits for its source. The socket's name goes with the value.
package final class MigrationListener {
    package let socket: FileDescriptor
    /// With the port that was taken for port 0.
    package let place: MigrationPlace
    private let credentials: TLSCredentials?

    package init(at place: MigrationPlace, _ credentials: TLSCredentials? = nil) throws {
        self.credentials = credentials
        switch place {
        case .ssh:
            throw CheckpointError("listen on", .object("\(place)"), "ssh is the source's way to us", remedy: "migrate --to \(place) there, with nothing to be started here")
        case .unix(let path):
            Self.removeUnused(path)
            socket = try CheckpointError.about("listen on", .file(path), remedy: "another path, or end who listens there") {
                let socket = try FileDescriptor.socket(1, 1)
                // What bind(2) makes has the mode of the socket's own inode (net/unix/af_unix.c, unix_bind_bsd).
                try Syscall.call("fchmod", SYS_fchmod, Int(socket.number), 0o600, on: .fd(socket.number))
                try socket.bind(SocketAddress(unix: Array(path.utf8) + [0]))
                try socket.listen(8)
                return socket
            }
            self.place = place
        case .tcp(let host, let port):
            guard let address = InetAddress(host: host, port: port)?.socketAddress else {
                throw CheckpointError("listen on", .object("\(place)"), "there is no such host", remedy: "an address of this machine")
            }
            socket = try CheckpointError.about("listen on", .object("\(place)"), remedy: "another port, or 0 for a free one") {
                let socket = try FileDescriptor.socket(Int32(address.family), 1)
                try socket.setOption(SocketOption.reuseAddress, to: Int32(1))
                try socket.bind(address)
                try socket.listen(8)
                return socket
            }
            self.place = .tcp(host: host, port: InetAddress(try socket.localAddress())?.port ?? port)
        }
    }

    /// The next connection of somebody who may connect.
    /// - Parameter seconds: how long somebody who has not proved yet who he is may be silent.
    package func accept(within seconds: Int64 = 10) throws -> PageConnection {
        let connection = try socket.accept()
        if case .unix(let path) = place { try MigrationPlace.checkPeer(of: connection, at: path) }
        guard let credentials else { return PageConnection(connection) }
        let whose = InetAddress(ofPeer: connection).map { "the connection from \($0)" } ?? "the connection"
        return try CheckpointError.about("serve", .object(whose)) { PageConnection(try credentials.accept(connection, within: seconds)) }
    }

    /// A name that a killed receiver has left.
    private static func removeUnused(_ path: String) {
        guard let status = try? Files.status(path, followLinks: false), status.type == S_IFSOCK, let trial = try? FileDescriptor.socket(1, 1) else { return }
        do throws(SyscallError) { try trial.connect(SocketAddress(unix: Array(path.utf8) + [0])) } catch {
            if error.errno == Errno(ECONNREFUSED) { try? Files.unlink(path) }
        }
    }
    deinit { if case .unix(let path) = place { try? Files.unlink(path) } }
}
@available(*, unavailable) extension MigrationListener: Sendable {}
