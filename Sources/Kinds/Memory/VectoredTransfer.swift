import CLinux
import Glibc
package import Graft
import Linux
import Synchronization

/// Memory and places in a file, as arguments of preadv(2) or pwritev(2): at most 1,024 pieces (IOV_MAX) and `bytesPerCall` a call.
package struct VectoredTransfer {
    /// Bytes of one batch: small enough to say how it goes; big enough not to be noticed (a batch costs some 10 µs).
    private static let bytesPerBatch: UInt64 = 1 << 26
    /// Of one that writes little: small enough for checksums to be made meanwhile.
    private static let bytesPerSmallBatch: UInt64 = 1 << 21
    /// Of one beside which somebody else takes calls.
    private static let bytesPerSharedBatch: UInt64 = 1 << 24
    /// Small enough to be shared out among several tasks.
    private static let bytesPerCall: UInt64 = 1 << 24
    /// Where pages are populated first: so few that they are still in a cache when they are filled. And where somebody else takes calls: so few
    /// that neither waits long for the other in the end.
    private static let bytesPerSmallCall: UInt64 = 1 << 22
    /// Bytes of a piece for which a call of its own pays.
    private static let worthPopulating: UInt64 = 1 << 17

    package struct Call {
        /// Address and length of each piece, in turn.
        package fileprivate(set) var vector: [UInt64], bytes: UInt64
        package let offset: UInt64
        var pieces: [Range<UInt64>] { stride(from: 0, to: vector.count, by: 2).map { vector[$0]..<(vector[$0] + vector[$0 + 1]) } }

        /// What lies behind the last piece in memory, too, becomes part of it: mappings may touch.
        fileprivate mutating func add(_ piece: Range<UInt64>) {
            let last = vector.count - 2
            if vector[last] + vector[last + 1] == piece.lowerBound { vector[last + 1] += UInt64(piece.count) } else { vector += [piece.lowerBound, UInt64(piece.count)] }
            bytes += UInt64(piece.count)
        }
    }
    package private(set) var calls: [Call] = []
    private let populates: Bool

    /// Pieces that follow one another in the file share a call.
    /// - Parameter populates: whether the memory is new and will be written: a fault for each of its pages costs a quarter more than
    ///   MADV_POPULATE_WRITE of many (madvise(2), Linux 5.14; without it they fault).
    /// - Parameter small: whether calls are made small, for others to take some.
    package init(_ pieces: some Sequence<(range: Range<UInt64>, offset: UInt64)>, populates: Bool = false, small: Bool = false) {
        self.populates = populates
        let bytesPerCall = populates || small ? Self.bytesPerSmallCall : Self.bytesPerCall
        for (range, offset) in pieces {
            var range = range, offset = offset
            while !range.isEmpty {
                let part = range.lowerBound..<min(range.upperBound, range.lowerBound + bytesPerCall)
                let bytes = UInt64(part.count), last = calls.count - 1
                if last >= 0, calls[last].offset + calls[last].bytes == offset, calls[last].vector.count < 2048, calls[last].bytes + bytes <= bytesPerCall {
                    calls[last].add(part)
                } else { calls.append(Call(vector: [part.lowerBound, bytes], bytes: bytes, offset: offset)) }
                offset += bytes
                range = part.upperBound..<range.upperBound
            }
        }
    }

    /// Runs all calls, shared out among `tasks`, as many a batch as fit, and hands each result (bytes, or minus errno) to `check`.
    /// - Parameters:
    ///   - second: takes calls of pwritev(2) from the end on, meanwhile.
    ///   - report: told after each batch how many bytes of the beginning are done, and how many of all.
    /// - Returns: the offset in the file from which on `second` has written.
    @discardableResult
    package func run(
        _ name: String, _ number: Int32, on descriptor: Int32, in tasks: [GraftedTask], beside second: SecondWriter? = nil,
        report: (_ beginning: UInt64, _ all: UInt64) -> Void, check: (Call, _ result: Int) throws -> Void
    ) throws -> UInt64? {
        let queue = Queue(calls), worker = Workers(1)
        defer {
            queue.close()
            try? worker.finish()  // no job throws
        }
        if let second {
            worker.run {
                while let call = queue.takeLast() {
                    do { try second.write(call.pieces, at: call.offset) } catch { return queue.putBack() }
                    queue.wroteLast()
                }
            }
        }
        let takers = tasks.count + (second == nil ? 0 : 1)
        let mostBytes = second != nil ? Self.bytesPerSharedBatch : populates ? Self.bytesPerBatch : min(Self.bytesPerBatch, max(Self.bytesPerSmallBatch, queue.bytes / 8))
        var done: UInt64 = 0
        func runOpen() throws {
            let share = min(mostBytes, queue.bytes / UInt64(takers))
            var running = [(task: GraftedTask, batch: Batch, sent: [(sent: Batch.Call, call: Call)])]()
            for task in tasks {
                var batch = task.batch(), sent = [(sent: Batch.Call, call: Call)]()
                var bytes: UInt64 = 0
                while bytes < max(share, 1), let call = queue.takeFirst(where: {
                    batch.dataRoom > $0.vector.count * 8 + 8 && batch.room > (populates ? $0.pieces.count { $0.count >= Self.worthPopulating } : 0)
                }) {
                    for piece in call.pieces where populates && piece.count >= Self.worthPopulating {
                        batch.call("madvise(MADV_POPULATE_WRITE)", SYS_madvise, .init(piece.lowerBound), .init(piece.count), 23, mayFail: true)
                    }
                    let vector = batch.words(call.vector)
                    sent.append((batch.call(name, number, .init(descriptor), vector.argument, .init(call.vector.count / 2), .init(call.offset), mayFail: true), call))
                    bytes += call.bytes
                }
                if sent.isEmpty { break }
                try task.start(&batch)
                running.append((task, batch, sent))
                done += bytes
            }
            for part in running {
                var batch = part.batch
                try part.task.finish(&batch)
                for (index, call) in part.sent { try check(call, batch.result(index)) }
            }
            report(done, done + queue.bytesWritten)
        }
        repeat {
            while !queue.isEmpty { try runOpen() }
            try? worker.finish()
        } while !queue.isEmpty  // a call that `second` could not do
        return queue.lastWritten
    }

    /// Calls that wait for whoever takes them: from the beginning, and from the end.
    private final class Queue: Sendable {
        private let calls: [Call]
        private struct State { var open: Range<Int>, bytes: UInt64, written: UInt64 = 0, lastWritten: UInt64? = nil }
        private let state: Mutex<State>
        init(_ calls: [Call]) {
            self.calls = calls
            state = Mutex(State(open: calls.indices, bytes: calls.reduce(0) { $0 + $1.bytes }))
        }

        var isEmpty: Bool { state.withLock { $0.open.isEmpty } }
        /// Of the calls that wait.
        var bytes: UInt64 { state.withLock { $0.bytes } }
        /// Of those from the end that are done, and where the last of them lies.
        var bytesWritten: UInt64 { state.withLock { $0.written } }
        var lastWritten: UInt64? { state.withLock { $0.lastWritten } }

        func takeFirst(where fits: (Call) -> Bool) -> Call? {
            state.withLock { state in
                guard let first = state.open.first, fits(calls[first]) else { return nil }
                state.open = (first + 1)..<state.open.upperBound
                state.bytes -= calls[first].bytes
                return calls[first]
            }
        }
        func takeLast() -> Call? {
            state.withLock { state in
                guard let last = state.open.last else { return nil }
                state.open = state.open.lowerBound..<last
                state.bytes -= calls[last].bytes
                return calls[last]
            }
        }
        /// The last that was taken is done.
        func wroteLast() {
            state.withLock { state in
                let call = calls[state.open.upperBound]
                state.written += call.bytes
                state.lastWritten = call.offset
            }
        }
        /// It could not be done.
        func putBack() {
            state.withLock { state in
                let end = state.open.upperBound
                guard calls.indices.contains(end) else { return }
                state.open = state.open.lowerBound..<(end + 1)
                state.bytes += calls[end].bytes
            }
        }
        func close() { state.withLock { $0.open = 0..<0 } }
    }
}
