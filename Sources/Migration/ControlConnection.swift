package import Kinds
import Linux
package import Pages

/// One end of the connection, as messages. Images and pages go over it in between.
package final class ControlConnection {
    package let pages: PageConnection
    private let peer: String

    /// - Parameter peer: "the destination", for errors.
    package init(_ pages: PageConnection, to peer: String) {
        (self.pages, self.peer) = (pages, peer)
        // A peer whose machine or network is gone says nothing: 20 s of silence where an answer is due are a cut (tcp(7)). Not for unix sockets and pipes.
        try? pages.socket.setOption(9 /* SO_KEEPALIVE */, to: Int32(1))
        for (option, seconds) in [(4, 5), (5, 5), (6, 3)] as [(Int32, Int32)] { try? pages.socket.setOption(option, level: 6, to: seconds) }  // TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT
        try? pages.socket.setOption(18, level: 6, to: Int32(20_000))  // TCP_USER_TIMEOUT, ms
    }

    private func failed(_ cause: String, remedy: String? = nil) -> CheckpointError {
        CheckpointError("talk to", .object(peer), cause, remedy: remedy)
    }
    private func talk<Value>(_ body: () throws -> Value) throws -> Value {
        try CheckpointError.about("talk to", .object(peer)) {
            do { return try body() } catch let error as SyscallError { throw CheckpointError("talk to", .object(peer), "the connection was cut (\(error))", errno: error.errno) }
        }
    }

    package func send(_ message: ControlMessage) throws { try talk { try pages.output.writeAll(message.bytes) } }
    package func send(_ bytes: [UInt8]) throws { try talk { try pages.output.writeAll(bytes) } }

    /// The next message; an error when there is none.
    package func receive() throws -> ControlMessage {
        guard let message = try receiveOrEnd() else { throw failed("the connection was cut") }
        return message
    }
    /// Nil when the other end has closed.
    package func receiveOrEnd() throws -> ControlMessage? {
        guard let head = try talk({ try pages.receive(4) }) else { return nil }
        let length = Int(head.word(UInt32.self, at: 0))
        guard length > 0, length <= ControlMessage.limit else { throw failed("what comes is no message of a migration", remedy: "see that stasis is at the other end") }
        guard let body = try talk({ try pages.receive(length) }) else { throw failed("the connection was cut within a message") }
        guard let message = ControlMessage(body: body) else { throw failed("what comes is no message of a migration", remedy: "use the same version of stasis at both ends") }
        return message
    }

    /// The message that is due. What the other end refuses is thrown in its words.
    package func expect(_ kind: ControlMessage.Kind, _ other: ControlMessage.Kind? = nil) throws -> ControlMessage {
        let message = try receive()
        if message.kind == .refused { throw message.refusal }
        guard message.kind == kind || message.kind == other else { throw failed("it says \(message.kind) where \(kind) is due", remedy: "use the same version of stasis at both ends") }
        return message
    }

    /// From here on a read fails that waits longer than that (SO_RCVTIMEO); not for pipes.
    package func limitWaiting(toSeconds seconds: Int64) { try? pages.socket.setOption(SocketOption.receiveTimeout, to: (seconds, Int64(0))) }
}
@available(*, unavailable) extension ControlConnection: Sendable {}

extension ControlMessage {
    /// An error as it travels.
    package init(refusal error: any Error) {
        if let error = error as? CheckpointError {
            self.init(.refused, [error.action, "\(error.subject)", error.cause, error.remedy ?? ""])
        } else { self.init(.refused, ["migrate", "the tree", "\(error)", ""]) }
    }
    package var refusal: CheckpointError {
        CheckpointError(text(0), .object(text(1) + " there"), text(2), remedy: text(3).isEmpty ? nil : text(3))
    }
}
