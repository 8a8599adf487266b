import CLinux
package import Graft
package import ImageMessages
package import Linux

/// The ring of an AIO context (io_setup(2), fs/aio.c): a header of eight words (id, nr, head, tail, magic ...), then events of
/// 32 bytes. The context's id is the ring's address; its own tail is the kernel's and follows only completed requests.
package enum AioRing {
    private static let headerSize = 32, eventSize = 32

    package static func dump(_ mapping: VmaEntry, of process: ThreadID) -> AioRingEntry? {
        guard let header = try? RemoteMemory(of: process).inspect(mapping.start, headerSize) else { return nil }
        var entry = AioRingEntry()
        entry.id = mapping.start
        // io_setup(n) makes room for 2 n + 2 events and rounds up to whole pages: the n that leads to this ring again.
        entry.nrReq = word(header, 1) >= 4 ? (word(header, 1) - 2) / 2 : 1
        entry.ringLen = UInt32(truncatingIfNeeded: mapping.length)
        return entry
    }

    private static func word(_ bytes: [UInt8], _ index: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(bytes[index * 4 + $1]) << (8 * $1) } }

    /// Makes the context again, at the same address and with the same events waiting in its ring.
    /// - Parameters:
    ///   - content: the ring's bytes from the image.
    ///   - file: a descriptor of the task, of a regular file: empty reads of it bring the kernel's tail to where it was.
    package static func restore(_ entry: AioRingEntry, content: [UInt8], in task: GraftedTask, file: Int32) throws {
        let subject = CheckpointError.Subject.mapping(entry.id..<(entry.id &+ UInt64(entry.ringLen)), name: "AIO ring", of: task.process)
        guard content.count >= headerSize, entry.nrReq > 0, entry.nrReq < 1 << 20 else { throw CheckpointError("restore", subject, "its image has no ring header") }
        let events = word(content, 1), tail = word(content, 3), head = word(content, 2)
        guard tail <= events, head <= events, UInt64(events) * UInt64(eventSize) + UInt64(headerSize) <= UInt64(entry.ringLen) else {
            throw CheckpointError("restore", subject, "head \(head) or tail \(tail) of its ring of \(events) events is out of range")
        }
        try CheckpointError.about("restore", subject) {
            var setup = task.batch()
            let context = setup.output(8)
            setup.call("io_setup", SYS_io_setup, .init(entry.nrReq), context.argument)
            try task.run(&setup)
            let address = setup.word(of: context)
            let made = try task.memory.read(address, headerSize)
            if address != entry.id {
                var move = task.batch()
                move.call("mremap", SYS_mremap, .init(address), .init(entry.ringLen), .init(entry.ringLen), 3, .init(entry.id))
                try task.run(&move)
            }
            guard word(made, 1) == events else { throw CheckpointError("restore", subject, "the kernel made a ring of \(word(made, 1)) events instead of \(events)") }
            try advance(to: tail, entry.id, task, file)
            // All as it was but for the first word, the kernel's own index.
            try task.memory.write(Array(content[4...]), at: entry.id + 4)
        }
    }

    /// Submits `tail` reads of nothing, each done at once, and takes their events.
    private static func advance(to tail: UInt32, _ context: UInt64, _ task: GraftedTask, _ file: Int32) throws {
        var left = Int(tail)
        while left > 0 {
            let count = min(left, 8)
            var batch = task.batch()
            // struct iocb: data, key and flags, opcode (0 IOCB_CMD_PREAD) with priority and descriptor, buffer, count, offset ...
            let request = batch.words([0, 0, UInt64(UInt32(bitPattern: file)) << 32, 0, 0, 0, 0, 0])
            let list = batch.words([UInt64](repeating: request.address, count: count))
            let events = batch.output(count * eventSize)
            let submitted = batch.call("io_submit", SYS_io_submit, .init(context), .init(count), list.argument)
            batch.call("io_getevents", SYS_io_getevents, .init(context), .init(count), .init(count), events.argument, 0)
            try task.run(&batch)
            guard batch.result(submitted) == count else { throw SyscallError("io_submit", .task(task.process), 11) }
            left -= count
        }
    }
}
