public import Linux

/// Calls without end for one task: a batch that is run whenever it is full. For calls whose results nobody needs but for failure.
public final class CallStream {
    private let grafted: GraftedTask
    private var batch: Batch

    public init(_ grafted: GraftedTask) { (self.grafted, batch) = (grafted, grafted.batch()) }

    /// Adds what `body` adds: at most 16 calls and `data` bytes of strings and buffers. Earlier results can't be referred to.
    public func add(data: Int = 0, _ body: (inout Batch) -> Void) throws(SyscallError) {
        if batch.room < 16 || batch.dataRoom < data + 256 { try flush() }
        body(&batch)
    }
    public func call(_ name: String, _ number: Int32, _ arguments: UInt64..., mayFail: Bool = false) throws(SyscallError) {
        try add { batch in batch.append(name, number, arguments.map { .value($0) }, mayFail: mayFail) }
    }
    public func flush() throws(SyscallError) {
        if batch.isEmpty { return }
        var full = grafted.batch()
        swap(&full, &batch)
        try grafted.run(&full)
    }
}
@available(*, unavailable) extension CallStream: Sendable {}
