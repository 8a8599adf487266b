import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// The rings of one dump. What fdinfo does not tell is asked of the kernel in the ring's own task, by calls that change nothing.
package final class IOUringDump: DumpState {
    private var rings: [OpenFile] = []
    private var saved = 0
    package init() {}

    func take(_ file: OpenFile) { rings.append(file) }
    func id(inode: UInt64) -> UInt32? { rings.first { $0.status.inode == inode }?.id }

    /// Saves the rings met since the last call.
    /// - Parameter descriptors: those of `process`, whose first thread runs the batches.
    package func save(of process: ThreadID, _ descriptors: [FdinfoEntry], by grafted: GraftedTask, _ context: DumpContext) throws {
        defer { saved = rings.count }
        for file in rings[saved...] {
            try context.attempt {
                try CheckpointError.about("dump", file.subject) {
                    var entry = FileEntry()
                    (entry.type, entry.id) = (IOUringFile.type, file.id)
                    entry.ring = try ring(file, descriptors, grafted, context)
                    try context.add(entry)
                }
            }
        }
    }

    private func ring(_ file: OpenFile, _ descriptors: [FdinfoEntry], _ grafted: GraftedTask, _ context: DumpContext) throws -> StasisIoUringEntry {
        var ring = StasisIoUringEntry()
        (ring.id, ring.flags, ring.fown) = (file.id, file.flags, try file.owner())
        ring.setup = try issuer(file)
        try refuseWhatIsHidden(file, grafted)
        var info = try IOUringFile.info(file.descriptor)
        // What is nearly done may get done.
        for _ in 0..<40 where info.submitted != info.completed && info.waiting == 0 {
            usleep(5000)
            var batch = grafted.batch()
            batch.call("io_uring_enter", IOUring.enter, .init(file.number), 0, 0, .init(IOUring.Enter.getEvents), 0, 0)
            try grafted.run(&batch)
            info = try IOUringFile.info(file.descriptor)
        }
        if let reason = IOUringFile.refusal(info) { throw IOUringFile.refuse(file.subject, reason) }
        let plain = try IOUringLayout(submissions: info.submissions, completions: info.completions, shape: 0)
        let shown = try entriesShown(file, plain, info, grafted)
        if shown.hasWideSubmission { ring.setup |= IOUring.Setup.wideSubmissions }
        if shown.hasWideCompletion { ring.setup |= IOUring.Setup.wideCompletions }
        let shape = ring.setup & (IOUring.Setup.wideSubmissions | IOUring.Setup.wideCompletions)
        let layout = try IOUringLayout(submissions: info.submissions, completions: info.completions, shape: shape)
        (ring.submissions, ring.completions, ring.done, ring.offsets) = (info.submissions, info.completions, info.completed, layout.offsets)
        do throws(SyscallError) {
            ring.rings = .init(imageBytes: try MappedFile(file.descriptor, count: layout.ringsSize(withArray: shown.showsSubmission)).content)
            ring.entries = .init(imageBytes: try MappedFile(file.descriptor, count: layout.submissionsSize, at: IOUring.entriesOffset).content)
        } catch { throw IOUringFile.refuse(file.subject, "its memory is the program's own (IORING_SETUP_NO_MMAP): \(error)") }
        try addRegistered(info, file, descriptors, &ring)
        return ring
    }

    /// Whether one task only may submit (SINGLE_ISSUER), and run what completes (DEFER_TASKRUN): others are refused, whatever they ask.
    private func issuer(_ file: OpenFile) throws -> UInt32 {
        func refused(_ call: Int32, _ arguments: [Int]) -> Int32 {
            do throws(SyscallError) { try Syscall.call("io_uring", call, Int(file.descriptor.number), arguments[0], arguments[1], arguments[2]) } catch { return error.errno.rawValue }
            return 0
        }
        var flags: UInt32 = 0
        if refused(IOUring.register, [IOUring.Register.probe, 0, 0]) == EEXIST { flags |= IOUring.Setup.singleIssuer }
        if refused(IOUring.enter, [0, 0, IOUring.Enter.getEvents]) == EEXIST { flags |= IOUring.Setup.deferTaskrun }
        return flags
    }

    /// Each of these calls fails, and by its error tells what fdinfo does not.
    private func refuseWhatIsHidden(_ file: OpenFile, _ grafted: GraftedTask) throws {
        func refuse(_ reason: String) -> CheckpointError { IOUringFile.refuse(file.subject, reason) }
        var batch = grafted.batch()
        let number = Batch.Argument(file.number)
        // A time at address 8: EFAULT, before anything is waited for; but a ring that polls does not look at it.
        let argument = batch.words([0, 8, 8])
        func enter(waitingFor count: UInt32, _ batch: inout Batch, _ argument: Batch.Argument) -> Batch.Call {
            batch.call("io_uring_enter", IOUring.enter, number, 0, .init(count), .init(IOUring.Enter.getEvents | IOUring.Enter.extendedArgument), argument, 24, mayFail: true)
        }
        let call = enter(waitingFor: 0, &batch, argument.argument)
        let probe = batch.call("io_uring_register", IOUring.register, number, .init(IOUring.Register.probe), 0, 0, mayFail: true)
        let eventfd = batch.call("io_uring_register", IOUring.register, number, .init(IOUring.Register.eventfd), 0, 1, mayFail: true)
        let numbers = Self.askForRegisteredRings(&batch)
        try grafted.run(&batch)
        var answer = batch.result(call)
        if answer == 0 {
            // An older kernel (6.1) looks at the time only when more is waited for than there is.
            var again = grafted.batch()
            let wait = enter(waitingFor: .max, &again, again.words([0, 8, 8]).argument)
            try grafted.run(&again)
            answer = again.result(wait)
        }
        switch Int32(-answer) {
        case EFAULT: break
        case 77 /* EBADFD */: throw refuse("it is not enabled yet (IORING_SETUP_R_DISABLED)")
        case 0: throw refuse("completions are polled for (IORING_SETUP_IOPOLL)")
        case let other: throw refuse("\(Errno(other))")
        }
        switch Int32(-batch.result(probe)) {
        case EEXIST: throw refuse("another thread than the first of task \(grafted.process) is the one that may submit (IORING_SETUP_SINGLE_ISSUER)")
        case EACCES: throw refuse("it is restricted (IORING_REGISTER_RESTRICTIONS)")
        default: break
        }
        if batch.result(eventfd) == -Int(EBUSY) { throw refuse("an eventfd is registered with it, and the kernel does not tell which") }
        try Self.refuseRegisteredRings(numbers, batch, grafted.task.id)
        try refuseProvidedBuffers(file, grafted)
    }

    /// A thread may register rings to do without descriptors (IORING_REGISTER_RING_FDS); which ones is not told.
    package static func askForRegisteredRings(_ batch: inout Batch) -> [Batch.Call] {
        (0..<16).map { batch.call("io_uring_enter", IOUring.enter, .init($0), 0, 0, .init(IOUring.Enter.registeredRing), 0, 0, mayFail: true) }
    }
    package static func refuseRegisteredRings(_ calls: [Batch.Call], _ batch: Batch, _ thread: ThreadID) throws {
        guard let index = calls.firstIndex(where: { batch.result($0) != -Int(EBADF) && batch.result($0) != -Int(EINVAL) }) else { return }
        throw IOUringFile.refuse(.task(thread), "it has registered a ring under number \(index) (IORING_REGISTER_RING_FDS), and the kernel does not tell which")
    }
    /// Whether the task's process has a ring, so that its other threads are to be asked.
    package func hasRings(_ process: ThreadID) -> Bool { rings.contains { $0.process == process } }

    /// Groups of provided buffers (IORING_REGISTER_PBUF_RING, IORING_OP_PROVIDE_BUFFERS): ENOENT where there is none. Kernels before 6.8 say EINVAL to all.
    private func refuseProvidedBuffers(_ file: OpenFile, _ grafted: GraftedTask) throws {
        var group: UInt32 = 0, answers = [Int: UInt32]()
        while group < 1 << 16 {
            var batch = grafted.batch(), calls = [(Batch.Call, UInt32)]()
            while group < 1 << 16, batch.room > 0, batch.dataRoom > 64 {
                let status = batch.words([UInt64(group), 0, 0, 0, 0])  // struct io_uring_buf_status
                calls.append((batch.call("io_uring_register", IOUring.register, .init(file.number), .init(IOUring.Register.bufferRingStatus), status.argument, 1, mayFail: true), group))
                group += 1
            }
            try grafted.run(&batch)
            for (call, group) in calls where answers[batch.result(call)] == nil { answers[batch.result(call)] = group }
            if answers.count == 1, answers[-Int(EINVAL)] != nil { return }
        }
        if let found = answers.first(where: { $0.key != -Int(ENOENT) }) { throw IOUringFile.refuse(file.subject, "buffers are provided to it in group \(found.value), and the kernel does not tell where they lie") }
    }

    /// fdinfo shows what is in the rings: for the time of one batch, which ends as it began whatever becomes of us, they seem to hold one submission and
    /// one completion more. A ring without an array of submissions (IORING_SETUP_NO_SQARRAY) shows none; its entries are taken for such of 64 bytes.
    private func entriesShown(_ file: OpenFile, _ layout: IOUringLayout, _ info: IOUringInfo, _ grafted: GraftedTask) throws -> IOUringInfo {
        var batch = grafted.batch()
        let map = batch.call("mmap", SYS_mmap, 0, 4096, 3, 1 /* MAP_SHARED */, .init(file.number), 0)
        try grafted.run(&batch)
        let rings = UInt64(batch.result(map))
        defer {
            var unmap = grafted.batch()
            unmap.call("munmap", SYS_munmap, .init(rings), 4096)
            try? grafted.run(&unmap)
        }
        var look = grafted.batch()
        let path = look.string("/proc/thread-self/fdinfo/\(file.number)")
        let places = look.words([rings + UInt64(layout.submissionTail), 4, rings + UInt64(layout.completionHead), 4])
        func write(_ submissionTail: UInt32, _ completionHead: UInt32) {
            let values = look.words([UInt64(submissionTail) | UInt64(completionHead) << 32])
            let local = look.words([values.address, 8])
            look.call("process_vm_writev", SYS_process_vm_writev, .init(grafted.process.rawValue), local.argument, 1, places.argument, 2, 0)
        }
        write(info.submissionTail &+ 1, info.completionHead &- 1)
        let text = look.output(8192)
        let open = look.call("openat", SYS_openat, -100 /* AT_FDCWD */, path, .init(O_RDONLY | O_CLOEXEC), 0, mayFail: true)
        let read = look.call("read", SYS_read, .result(open), text.argument, .init(text.count), mayFail: true)
        look.call("close", SYS_close, .result(open), mayFail: true)
        write(info.submissionTail, info.completionHead)
        try grafted.run(&look)
        guard look.result(read) > 0, let shown = IOUringInfo(parsing: String(decoding: look.bytes(of: text).prefix(look.result(read)), as: UTF8.self)) else {
            throw IOUringFile.refuse(file.subject, "its fdinfo can't be read by its task")
        }
        return shown
    }

    /// Registered files are told by their paths, by older kernels (6.1) by their names: each must be that of one open file of the process.
    private func addRegistered(_ info: IOUringInfo, _ file: OpenFile, _ descriptors: [FdinfoEntry], _ ring: inout StasisIoUringEntry) throws {
        (ring.fileSlots, ring.bufferSlots) = (info.fileSlots, info.bufferSlots)
        for (slot, buffer) in info.buffers.sorted(by: { $0.key < $1.key }) {
            var entry = StasisIoUringBuffer()
            (entry.slot, entry.address, entry.length) = (slot, buffer.address, buffer.length)
            ring.buffers.append(entry)
        }
        if info.files.isEmpty { return }
        var byPath: [String: Set<UInt32>] = [:]
        for descriptor in descriptors {
            guard let link = try? Files.link("/proc/\(file.process)/fd/\(descriptor.fd)") else { continue }
            let name = link.hasPrefix("/") ? PathName.split(link).last : String(link.drop { $0 != ":" }.dropFirst())  // "anon_inode:[eventfd]"
            for key in [link, name] { byPath[key, default: []].insert(descriptor.id) }
        }
        for (slot, path) in info.files.sorted(by: { $0.key < $1.key }) {
            let found = byPath[path] ?? []
            guard let id = found.first, found.count == 1 else {
                throw IOUringFile.refuse(file.subject, "\(path) is registered with it in slot \(slot), and " + (found.isEmpty ? "no descriptor of the process leads to that open file" : "which of \(found.count) open files of that name it is the kernel does not tell"))
            }
            var entry = StasisIoUringFile()
            (entry.slot, entry.fileID) = (slot, id)
            ring.files.append(entry)
        }
    }
}
