import CLinux
import Graft
import ImageMessages
import Linux

/// What a process does on each signal: rt_sigaction(2), one entry for each signal but SIGKILL and SIGSTOP, ascending.
package struct SignalActions {
    /// The signals in the order of the image.
    static let numbers = (1...64).filter { $0 != 9 && $0 != 19 }.map { Int32($0) }
    /// struct sigaction as the kernel has it: handler, flags, restorer, mask (include/linux/signal_types.h).
    static let size = 32

    private let buffer: Batch.Buffer

    init(_ batch: inout Batch) {
        buffer = batch.output(Self.size * Self.numbers.count)
        for (index, number) in Self.numbers.enumerated() {
            batch.call("rt_sigaction", SYS_rt_sigaction, .init(number), 0, .init(buffer.address + UInt64(index * Self.size)), 8)
        }
    }

    func answer(_ batch: Batch) -> [SaEntry] {
        let bytes = batch.bytes(of: buffer)
        return Self.numbers.indices.map { index in
            var entry = SaEntry()
            entry.sigaction = bytes.word(at: index * Self.size)
            entry.flags = bytes.word(at: index * Self.size + 8)
            entry.restorer = bytes.word(at: index * Self.size + 16)
            entry.mask = bytes.word(at: index * Self.size + 24)
            entry.compatSigaction = false
            return entry
        }
    }

    /// Sets all of them, also the default ones: a signal that is ignored here may be ignored because our own parent had it so.
    static func restore(_ entries: [SaEntry], into batch: inout Batch) throws {
        guard entries.count == numbers.count else {
            throw CheckpointError("restore", .object("signal actions"), "the image has \(entries.count) of them instead of \(numbers.count)")
        }
        if let index = entries.firstIndex(where: { $0.compatSigaction }) {
            throw CheckpointError("restore", .object("the action of signal \(numbers[index])"), "it is a 32-bit task's, which is not supported yet")
        }
        var known: [[UInt64]: Batch.Buffer] = [:]
        for (number, entry) in zip(numbers, entries) {
            let words = [entry.sigaction, entry.flags, entry.restorer, entry.mask]
            let action = known[words] ?? batch.words(words)
            known[words] = action
            batch.call("rt_sigaction", SYS_rt_sigaction, .init(number), action.argument, 0, 8)
        }
    }
}
