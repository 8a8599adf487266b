import CLinux
import Graft
import ImageMessages

/// The stack that signal handlers run on: sigaltstack(2).
struct AlternateStack {
    private static let disabled: UInt32 = 2, onStack: UInt32 = 1
    private let buffer: Batch.Buffer

    /// The graft leaves the stack pointer alone, so "on the stack" is as the task itself would see it.
    init(_ batch: inout Batch) {
        buffer = batch.output(24)
        batch.call("sigaltstack", SYS_sigaltstack, 0, buffer.argument)
    }

    func answer(_ batch: Batch) -> ThreadSasEntry {
        var entry = ThreadSasEntry()
        entry.ssSp = batch.word(of: buffer)
        entry.ssFlags = batch.word32(of: buffer, 2)
        entry.ssSize = batch.word(of: buffer, 2)
        return entry
    }

    static func restore(_ entry: ThreadSasEntry, into batch: inout Batch) {
        if entry.ssFlags & disabled != 0 || entry.ssSize == 0 { return }
        // Whether it is in use follows from the stack pointer; the kernel takes no word for it.
        let stack = batch.words([entry.ssSp, UInt64(entry.ssFlags & ~onStack), entry.ssSize])
        batch.call("sigaltstack", SYS_sigaltstack, stack.argument, 0)
    }
}
