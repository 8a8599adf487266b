package import Kinds
package import Linux

/// A dump's end of the connection to a page server.
package final class PageServerClient: PageReceiver {
    private let connection: PageConnection
    private let place: PageServerPlace
    private var current: PageSubject?
    /// Requests, and few pages each, that are sent together: a page by itself costs more than its bytes.
    private let pending = PageBuffer()
    /// Where requests and pages begin in it. Within TLS, CRIU's server takes records for pages up to one that fills what it waits for.
    private var starts: [Int] = []
    private static let fewBytes = 64 << 10

    package init(_ place: PageServerPlace) throws {
        connection = try place.connect()
        self.place = place
    }

    private func talk<Value>(_ body: () throws -> Value) throws -> Value {
        try CheckpointError.about("send pages to", .object("the page server"), remedy: "see the page server's log; the tree goes on here", body)
    }

    package func open(_ subject: PageSubject) throws -> Bool {
        try talk {
            current = subject
            try flush()
            try connection.send(PageRequest(.openWithAnswer, subject: subject.wireNumber))
            return try isYes(Int32(try connection.expect(1)[0]))
        }
    }

    /// Whether the server has pages of the subject from the dump before, without beginning it.
    package func hasParent(_ subject: PageSubject) throws -> Bool {
        try talk {
            try flush()
            try connection.send(PageRequest(.parent, subject: subject.wireNumber))
            return try isYes(try connection.expectNumber())
        }
    }

    private func isYes(_ answer: Int32) throws -> Bool {
        guard answer & ~1 == 0 else { throw CheckpointError("send pages to", .object("the page server"), "its answer is not one of a page server", remedy: "with --tls, if it was started so") }
        return answer == 1
    }

    package func put(_ runs: [PageRuns.Run], _ content: PageBuffer) throws {
        var at = 0
        for run in runs {
            let part = at..<(run.hasContent ? at + run.range.count : at)
            at = part.upperBound
            if part.count > Self.fewBytes {
                try talk {
                    try flush()
                    try connection.send(request(run.range, run.flags))
                    try content.send(part, over: connection.output)
                }
                continue
            }
            if pending.room < PageRequest.size + part.count { try talk { try flush() } }
            starts.append(pending.count)
            pending.append(request(run.range, run.flags).bytes)
            if part.isEmpty { continue }
            starts.append(pending.count)
            _ = pending.append(content, part)
        }
    }

    private func request(_ range: Range<UInt64>, _ flags: UInt32) -> PageRequest {
        guard let current else { preconditionFailure("pages before open") }
        return PageRequest(.addWithFlags, flags: UInt16(flags), pages: UInt64(range.count) / 4096, address: range.lowerBound, subject: current.wireNumber)
    }

    private func flush() throws {
        if pending.count == 0 { return }
        try pending.send(apartAt: starts, over: connection.output)
        pending.clear(0)
        starts.removeAll(keepingCapacity: true)
    }

    /// Ends; everything is with the server, on its disk, when this returns.
    package func finish() throws {
        try talk {
            try flush()
            try connection.send(PageRequest(place.isHandedOver ? .forceClose : .close))
            let status = try connection.expectNumber()
            guard status == 0 else { throw CheckpointError("send pages to", .object("the page server"), "it could not write all of them (\(status))") }
            place.end(connection)
        }
    }
}
