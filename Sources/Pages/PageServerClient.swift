package import Kinds
package import Linux

/// A dump's end of the connection to a page server.
package final class PageServerClient: PageReceiver {
    private let connection: PageConnection
    private let isHandedOver: Bool
    private var current: PageSubject?
    /// Requests, and few pages each, that are sent together: a page by itself costs more than its bytes.
    private let pending = PageBuffer()
    private static let fewBytes = 64 << 10
    package var stream: FileDescriptor { connection.socket }

    package init(_ place: PageServerPlace) throws {
        connection = try place.connect()
        isHandedOver = place.isHandedOver
    }

    private func talk<Value>(_ body: () throws -> Value) throws -> Value {
        try CheckpointError.about("send pages to", .object("the page server"), remedy: "see the page server's log; the tree goes on here", body)
    }

    package func open(_ subject: PageSubject) throws -> Bool {
        try talk {
            current = subject
            try flush()
            try connection.send(PageRequest(.openWithAnswer, subject: subject.wireNumber))
            guard let answer = try connection.receive(1) else { throw SyscallError("read", .fd(stream.number), 104 /* ECONNRESET */) }
            return answer[0] != 0
        }
    }

    /// Whether the server has pages of the subject from the dump before, without beginning it.
    package func hasParent(_ subject: PageSubject) throws -> Bool {
        try talk {
            try flush()
            try connection.send(PageRequest(.parent, subject: subject.wireNumber))
            guard let answer = try connection.receiveNumber() else { throw SyscallError("read", .fd(stream.number), 104 /* ECONNRESET */) }
            return answer != 0
        }
    }

    package func add(_ range: Range<UInt64>, flags: UInt32) throws {
        try talk {
            try flush()
            try connection.send(request(range, flags))
        }
    }

    package func put(_ runs: [PageRuns.Run], _ content: PageBuffer) throws {
        var at = 0
        for run in runs {
            let part = at..<(run.hasContent ? at + run.range.count : at)
            at = part.upperBound
            if part.count > Self.fewBytes {
                try add(run.range, flags: run.flags)
                try talk { try content.write(part, to: stream) }
                continue
            }
            if pending.room < PageRequest.size + part.count { try talk { try flush() } }
            pending.append(request(run.range, run.flags).bytes)
            _ = pending.append(content, part)
        }
    }

    private func request(_ range: Range<UInt64>, _ flags: UInt32) -> PageRequest {
        guard let current else { preconditionFailure("pages before open") }
        return PageRequest(.addWithFlags, flags: UInt16(flags), pages: UInt64(range.count) / 4096, address: range.lowerBound, subject: current.wireNumber)
    }

    private func flush() throws(SyscallError) {
        try pending.write(to: connection.output)
        pending.clear(0)
    }

    /// Ends; everything is with the server, on its disk, when this returns.
    package func finish() throws {
        try talk {
            try flush()
            try connection.send(PageRequest(isHandedOver ? .forceClose : .close))
            guard let status = try connection.receiveNumber() else { throw SyscallError("read", .fd(stream.number), 104 /* ECONNRESET */) }
            guard status == 0 else { throw CheckpointError("send pages to", .object("the page server"), "it could not write all of them (\(status))") }
        }
    }
}
