import Kinds
import Linux
import Pages
import Synchronization

// Post-copy: the tree runs at its destination, and its memory follows. The destination asks (`want`: a task, then address and pages of
// each range), the source answers (`content`, then the bytes), until the destination says that it has all (`complete`).

/// The source's end: gives memory of the tree that stands still.
final class MemoryGiver {
    private let memory: FrozenPageSource, connection: ControlConnection
    private let buffer = PageBuffer()
    /// What there was to give, and what was asked for.
    let total: UInt64
    private(set) var given: UInt64 = 0

    init(_ memory: FrozenPageSource, _ connection: ControlConnection) { (self.memory, self.connection, total) = (memory, connection, memory.bytes) }

    /// Answers questions until another message comes, which must be of this kind.
    func serve(until kind: ControlMessage.Kind) throws {
        while true {
            let message = try connection.expect(kind, .want)
            if message.kind == kind { return }
            guard let (task, ranges) = message.wanted else { throw CheckpointError("give", .object("memory of the tree"), "the destination asks for what can't be") }
            let count = try memory.fetch(ranges, of: task, into: buffer)
            try connection.send(ControlMessage(.content))
            try CheckpointError.about("talk to", .object("the destination")) { try buffer.send(over: connection.pages.output) }
            given += UInt64(count)
        }
    }
}

/// The destination's end, on a thread of its own: asks the source.
final class MemoryTaker: RemotePages, Sendable {
    private let line: SharedLine
    private let error = Mutex<(any Error)?>(nil)
    /// Why nothing comes any more.
    var failure: (any Error)? { error.withLock { $0 } }

    init(_ line: SharedLine) { self.line = line }

    func fetch(_ ranges: [Range<UInt64>], of task: UInt32, into buffer: PageBuffer) throws -> Int {
        let count = ranges.reduce(0) { $0 + $1.count }
        do {
            try line.inTurn { connection in
                try connection.send(ControlMessage(wanted: ranges, of: task))
                _ = try connection.expect(.content)
                guard try buffer.receive(count, from: connection.pages.input) else { throw CheckpointError("talk to", .object("the source"), "the connection was cut") }
            }
        } catch {
            self.error.withLock { $0 = error }
            throw error
        }
        return count
    }

    /// All of it is here: the source's tree may end.
    func complete() throws { try line.inTurn { try $0.send(ControlMessage(.complete)) } }
}

/// A connection that two threads use, each for whole exchanges.
final class SharedLine: @unchecked Sendable {
    private let connection: ControlConnection  // used under `turn`
    private let turn = Mutex(())
    init(_ connection: ControlConnection) { self.connection = connection }
    func inTurn<Value>(_ body: (ControlConnection) throws -> Value) throws -> Value { try turn.withLock { _ in try body(connection) } }
}

extension ControlMessage {
    init(wanted ranges: [Range<UInt64>], of task: UInt32) {
        var bytes = [UInt8]()
        for range in ranges { bytes += little64(range.lowerBound) + little64(UInt64(range.count) / 4096) }
        self.init(.want, ["\(task)"])
        fields.append(bytes)
    }

    /// Nil where they are no ranges, ascending, of what one answer holds.
    var wanted: (task: UInt32, ranges: [Range<UInt64>])? {
        guard kind == .want, fields.count > 1, let task = UInt32(text(0)), fields[1].count % 16 == 0 else { return nil }
        let words = fields[1].words(UInt64.self, in: 0..<fields[1].count)
        var ranges = [Range<UInt64>](), room = UInt64(PageBuffer.capacity / 4096)
        for at in stride(from: 0, to: words.count, by: 2) {
            let (address, pages) = (words[at], words[at + 1])
            guard pages > 0, pages <= room, address % 4096 == 0, address < 1 << 60, address >= ranges.last?.upperBound ?? 0 else { return nil }
            room -= pages
            ranges.append(address..<(address + pages * 4096))
        }
        return ranges.isEmpty ? nil : (task, ranges)
    }
}
