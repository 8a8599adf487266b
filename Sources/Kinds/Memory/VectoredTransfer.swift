import CLinux
import Glibc
package import Graft

/// Memory and places in a file, as arguments of preadv(2) or pwritev(2): at most 1,024 pieces (IOV_MAX) and `bytesPerCall` a call.
package struct VectoredTransfer {
    /// Bytes of one batch: small enough to say how it goes, and for checksums to follow closely; big enough not to be noticed (a batch
    /// costs some 10 µs).
    package static let bytesPerBatch: UInt64 = 1 << 26
    /// Small enough to be shared out among several tasks.
    private static let bytesPerCall: UInt64 = 1 << 24
    /// Where pages are populated first: so few that they are still in a cache when they are filled.
    private static let populatedPerCall: UInt64 = 1 << 22
    /// Bytes of a piece for which a call of its own pays.
    private static let worthPopulating: UInt64 = 1 << 17

    package struct Call {
        /// Address and length of each piece, in turn.
        package fileprivate(set) var vector: [UInt64], bytes: UInt64
        package let offset: UInt64
        fileprivate var pieces: [Range<UInt64>] { stride(from: 0, to: vector.count, by: 2).map { vector[$0]..<(vector[$0] + vector[$0 + 1]) } }

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
    package init(_ pieces: some Sequence<(range: Range<UInt64>, offset: UInt64)>, populates: Bool = false) {
        self.populates = populates
        let bytesPerCall = populates ? Self.populatedPerCall : Self.bytesPerCall
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
    /// - Parameter report: told the bytes done so far after each batch.
    package func run(
        _ name: String, _ number: Int32, on descriptor: Int32, in tasks: [GraftedTask], report: (UInt64) -> Void, check: (Call, _ result: Int) throws -> Void
    ) throws {
        var next = 0, done: UInt64 = 0, left = calls.reduce(0) { $0 + $1.bytes }
        while next < calls.count {
            let share = min(Self.bytesPerBatch, left / UInt64(tasks.count))
            var running = [(task: GraftedTask, batch: Batch, sent: [(sent: Batch.Call, call: Call)])]()
            for task in tasks {
                var batch = task.batch(), sent = [(sent: Batch.Call, call: Call)]()
                var bytes: UInt64 = 0
                while next < calls.count, bytes < max(share, 1), batch.dataRoom > calls[next].vector.count * 8 + 8 {
                    let call = calls[next], large = populates ? call.pieces.filter { $0.count >= Self.worthPopulating } : []
                    if batch.room <= large.count { break }
                    for piece in large { batch.call("madvise(MADV_POPULATE_WRITE)", SYS_madvise, .init(piece.lowerBound), .init(piece.count), 23, mayFail: true) }
                    let vector = batch.words(call.vector)
                    sent.append((batch.call(name, number, .init(descriptor), vector.argument, .init(call.vector.count / 2), .init(call.offset), mayFail: true), call))
                    bytes += call.bytes
                    next += 1
                }
                if sent.isEmpty { break }
                try task.start(&batch)
                running.append((task, batch, sent))
                left -= bytes
                done += bytes
            }
            for part in running {
                var batch = part.batch
                try part.task.finish(&batch)
                for (index, call) in part.sent { try check(call, batch.result(index)) }
            }
            report(done)
        }
    }
}
