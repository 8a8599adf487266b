package import Graft

/// Memory and places in a file, as arguments of preadv(2) or pwritev(2): at most 1,024 pieces (IOV_MAX) and `bytesPerBatch` a call.
package struct VectoredTransfer {
    /// Bytes of one batch: small enough to say how it goes, big enough not to be noticed (a batch costs some 10 µs).
    package static let bytesPerBatch: UInt64 = 1 << 28

    package struct Call {
        /// Address and length of each piece, in turn.
        package fileprivate(set) var vector: [UInt64], bytes: UInt64
        package let offset: UInt64
    }
    package private(set) var calls: [Call] = []

    /// Pieces that follow one another in the file share a call.
    package init(_ pieces: some Sequence<(range: Range<UInt64>, offset: UInt64)>) {
        for (range, offset) in pieces {
            var range = range, offset = offset
            while !range.isEmpty {
                let part = range.lowerBound..<min(range.upperBound, range.lowerBound + Self.bytesPerBatch)
                let bytes = UInt64(part.count), last = calls.count - 1
                if last >= 0, calls[last].offset + calls[last].bytes == offset, calls[last].vector.count < 2048, calls[last].bytes + bytes <= Self.bytesPerBatch {
                    calls[last].vector.append(part.lowerBound)
                    calls[last].vector.append(bytes)
                    calls[last].bytes += bytes
                } else { calls.append(Call(vector: [part.lowerBound, bytes], bytes: bytes, offset: offset)) }
                offset += bytes
                range = part.upperBound..<range.upperBound
            }
        }
    }

    /// Runs all calls in the task, as many a batch as fit, and hands each result (bytes, or minus errno) to `check`.
    /// - Parameter report: told the bytes done so far after each batch.
    package func run(
        _ name: String, _ number: Int32, on descriptor: Int32, in task: GraftedTask, report: (UInt64) -> Void, check: (Call, _ result: Int) throws -> Void
    ) throws {
        var next = 0, done: UInt64 = 0
        while next < calls.count {
            var batch = task.batch()
            var sent = [(sent: Batch.Call, call: Call)]()
            var bytes: UInt64 = 0
            while next < calls.count, bytes == 0 || bytes + calls[next].bytes <= Self.bytesPerBatch, batch.room > 0, batch.dataRoom > calls[next].vector.count * 8 + 8 {
                let call = calls[next]
                let vector = batch.words(call.vector)
                sent.append((batch.call(name, number, .init(descriptor), vector.argument, .init(call.vector.count / 2), .init(call.offset), mayFail: true), call))
                bytes += call.bytes
                next += 1
            }
            try task.run(&batch)
            for (index, call) in sent { try check(call, batch.result(index)) }
            done += bytes
            report(done)
        }
    }
}
