import CLinux
import Glibc
import Graft
import ImageMessages
import Linux

/// The rings of one restore, and which task has each.
final class IOUringRestore: DumpState {
    struct Held { let number: Int32, isTemporary: Bool }
    private struct Home { let task: any RestoredTask, number: Int32 }
    /// The first home of each is where it was made.
    private var homes: [UInt32: [Home]] = [:]
    init() {}

    /// The ring's descriptor in the task: its own, or a temporary one taken from the task that has it. Nil when no task has it yet.
    func number(of id: UInt32, in task: any RestoredTask) throws -> Held? {
        guard let homes = homes[id], let maker = homes.first else { return nil }
        if let own = homes.first(where: { $0.task === task }) { return Held(number: own.number, isTemporary: false) }
        var batch = task.grafted.batch()
        let process = batch.call("pidfd_open", SYS_pidfd_open, .init(maker.task.pid.rawValue), 0)
        let taken = batch.call("pidfd_getfd", SYS_pidfd_getfd, .result(process), .init(maker.number), 0)
        batch.call("close", SYS_close, .result(process))
        try task.grafted.run(&batch)
        return Held(number: Int32(batch.result(taken)), isTemporary: true)
    }

    func place(_ id: UInt32, _ held: Held, at number: Int32, in task: any RestoredTask) throws {
        var batch = task.grafted.batch()
        if held.number != number {
            batch.call("dup3", SYS_dup3, .init(held.number), .init(number), .init(O_CLOEXEC))
            if held.isTemporary { batch.call("close", SYS_close, .init(held.number)) }
        }
        try task.grafted.run(&batch)
        homes[id, default: []].append(Home(task: task, number: number))
    }

    /// Makes the ring and brings it to where it was. Its descriptor is a temporary one.
    func make(_ ring: StasisIoUringEntry, in task: any RestoredTask, _ context: RestoreContext) throws -> Held {
        let layout = try IOUringFile.layout(ring, context)
        var batch = task.grafted.batch()
        let issuer = ring.setup & (IOUring.Setup.singleIssuer | IOUring.Setup.deferTaskrun)
        let flags = issuer | layout.shape | IOUring.Setup.submitAll | (issuer & IOUring.Setup.deferTaskrun != 0 ? IOUring.Setup.taskrunFlag : 0)
        let parameters = batch.bytes(IOUring.parameters(flags: flags, completions: ring.completions))
        let made = batch.call("io_uring_setup", IOUring.setup, .init(ring.submissions), parameters.argument)
        let size = layout.ringsSize(withArray: true)
        let rings = batch.call("mmap", SYS_mmap, 0, .init(size), 3, 1 /* MAP_SHARED */, .result(made), 0)
        let entries = batch.call("mmap", SYS_mmap, 0, .init(layout.submissionsSize), 3, 1, .result(made), .init(IOUring.entriesOffset))
        try task.grafted.run(&batch)
        let number = Int32(batch.result(made)), memory = UInt64(batch.result(rings)), submissions = UInt64(batch.result(entries))
        try advance(number, memory, layout, to: ring.done, waits: issuer & IOUring.Setup.deferTaskrun != 0, task)
        try task.grafted.memory.write(content(ring, layout), at: memory)
        try task.grafted.memory.write(Array(ring.entries), at: submissions)
        try register(ring, number, task, context)
        var last = task.grafted.batch()
        last.call("munmap", SYS_munmap, .init(memory), .init(size))
        last.call("munmap", SYS_munmap, .init(submissions), .init(layout.submissionsSize))
        try task.grafted.run(&last)
        let descriptor = try FileDescriptor.duplicate(number, ofProcess: try FileDescriptor.process(task.pid))
        try descriptor.setStatusFlags(ring.flags)
        try FileOwner.restore(ring.fown, on: descriptor)
        return Held(number: number, isTemporary: true)
    }

    /// The memory as it was. A ring that had no array gets one, in which each submission stands at its place.
    private func content(_ ring: StasisIoUringEntry, _ layout: IOUringLayout) -> [UInt8] {
        var bytes = Array(ring.rings)
        let whole = layout.ringsSize(withArray: true)
        if bytes.count < whole {
            bytes += [UInt8](repeating: 0, count: whole - bytes.count)
            for index in 0..<layout.submissions { bytes.put(index, at: layout.array + Int(index) * 4) }
        }
        return bytes
    }

    /// A new ring is full of requests of nothing: zeros. Its task submits one load after the other; after each the completions are taken.
    private func advance(_ ring: Int32, _ memory: UInt64, _ layout: IOUringLayout, to done: UInt32, waits: Bool, _ task: any RestoredTask) throws {
        if done == 0 { return }
        try task.grafted.memory.write(little32(done), at: memory + UInt64(layout.submissionTail))
        let load = min(layout.submissions, layout.completions)
        var at: UInt32 = 0
        while at < done {
            var batch = task.grafted.batch()
            let place = batch.words([memory + UInt64(layout.completionHead), 4])
            while at < done, batch.room > 1, batch.dataRoom > 64 {
                let count = min(load, done - at)
                at += count
                batch.call("io_uring_enter", IOUring.enter, .init(ring), .init(count), 0, waits ? .init(IOUring.Enter.getEvents) : 0, 0, 0)
                let taken = batch.words([UInt64(at)])
                let local = batch.words([taken.address, 4])
                batch.call("process_vm_writev", SYS_process_vm_writev, .init(task.pid.rawValue), local.argument, 1, place.argument, 1, 0)
            }
            try task.grafted.run(&batch)
        }
        func word(_ offset: Int) throws -> UInt32 { try task.grafted.memory.read(memory + UInt64(offset), 4).word(at: 0) }
        guard try word(layout.submissionHead) == done, try word(layout.completionTail) == done else {
            throw CheckpointError("restore", .task(task.pid), "its io_uring did not do \(done) requests of nothing")
        }
    }

    private func register(_ ring: StasisIoUringEntry, _ number: Int32, _ task: any RestoredTask, _ context: RestoreContext) throws {
        func sparse(_ operation: Int, _ slots: UInt32) throws {
            var batch = task.grafted.batch()
            let request = batch.words([UInt64(slots) | 1 << 32 /* IORING_RSRC_REGISTER_SPARSE */, 0, 0, 0])  // struct io_uring_rsrc_register
            batch.call("io_uring_register", IOUring.register, .init(number), .init(operation), request.argument, 32)
            try task.grafted.run(&batch)
        }
        if ring.fileSlots > 0 { try sparse(IOUring.Register.files, ring.fileSlots) }
        for file in ring.files {
            let lent = try task.receive([try context.requireDescriptor(of: file.fileID)])[0]
            var batch = task.grafted.batch()
            let descriptors = batch.words([UInt64(UInt32(bitPattern: lent))])
            let update = batch.words([UInt64(file.slot), descriptors.address])  // struct io_uring_files_update
            batch.call("io_uring_register", IOUring.register, .init(number), .init(IOUring.Register.filesUpdate), update.argument, 1)
            batch.call("close", SYS_close, .init(lent))
            try task.grafted.run(&batch)
        }
        if ring.bufferSlots > 0 { try sparse(IOUring.Register.buffers, ring.bufferSlots) }
        for buffer in ring.buffers {
            var batch = task.grafted.batch()
            let vector = batch.words([buffer.address, buffer.length])
            let update = batch.words([UInt64(buffer.slot), vector.address, 0, 1])  // struct io_uring_rsrc_update2
            batch.call("io_uring_register", IOUring.register, .init(number), .init(IOUring.Register.buffersUpdate), update.argument, 32)
            try task.grafted.run(&batch)
        }
    }
}
