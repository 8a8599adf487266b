import CLinux
import Glibc
import Graft
import ImageMessages
import Kinds
import Linux
import Pages

/// A process of the tree that is being made: stopped, in its graft, with the restore's socket in its descriptor table.
final class RestoringProcess: RestoredTask {
    let pid: ThreadID
    /// Nil for a helper and for a zombie.
    let images: ProcessImages?
    let grafted: GraftedTask
    /// The process whose memory it has from its birth: its maker, or whose memory that helper had. Not always its parent.
    var original: RestoringProcess?
    /// Our end of the channel that gives descriptors to every process of the tree, and its number in this process.
    let channel: FileDescriptor
    /// Its number in this process: the same value in every process that shares the descriptor table.
    final class TableSocket { var number: Int32; init(_ number: Int32) { self.number = number } }
    private let tableSocket: TableSocket
    var socket: Int32 { get { tableSocket.number } set { tableSocket.number = newValue } }
    /// Where the kernel's vvar and vDSO mappings are just now.
    struct Special: Equatable { var address: UInt64, length: UInt64, isCode: Bool }
    var special: [Special]
    /// The set of cgroups it is in (cgroup.img).
    var cgroupSet: UInt32 = 0
    /// Memory that is filled by a lazy-pages daemon, and what it is filled through.
    var lazyRanges: [Range<UInt64>] = [], fault: Userfault?
    /// Pages in these that have content, and come later.
    var latePages: [Range<UInt64>] = []
    /// Threads but for the leader, standing in their first stop.
    var threads: [(id: ThreadID, task: TracedTask)] = []

    init(pid: ThreadID, images: ProcessImages?, grafted: GraftedTask, channel: FileDescriptor, socket: TableSocket, special: [Special]) {
        (self.pid, self.images, self.grafted) = (pid, images, grafted)
        (self.channel, tableSocket, self.special) = (channel, socket, special)
    }

    /// The first process: a stub with the root's id, its own stack and program unmapped.
    static func root(pid: ThreadID, images: ProcessImages, places: MemoryRestorer.Places, sibling: Bool) throws -> RestoringProcess {
        var ends: (Int32, Int32) = (-1, -1)
        try Syscall.call("socketpair", SYS_socketpair, value: &ends, at: 3, 1, 2 | 0x80000, 0)  // AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC
        let ours = FileDescriptor(owning: ends.0), theirs = FileDescriptor(owning: ends.1)
        let task: TracedTask
        do throws(SyscallError) { task = try Stub.start(at: places.hole, pid: pid, sibling: sibling, keeping: theirs) } catch {
            throw CheckpointError.forking(pid, error)
        }
        let special = try Mapping.all(of: pid, withFlags: false).filter { $0.name.hasPrefix("[vvar") || $0.name == "[vdso]" }
            .map { Special(address: $0.start, length: $0.length, isCode: $0.name == "[vdso]") }
        let grafted = try Workspace.make(in: task, at: places.workspace)
        let process = RestoringProcess(pid: pid, images: images, grafted: grafted, channel: ours, socket: TableSocket(theirs.number), special: special)
        var batch = grafted.batch()
        // It asked to be killed with us until we traced it.
        batch.call("prctl(PR_SET_PDEATHSIG)", SYS_prctl, 1, 0)
        // As long as a page of the stub's program is mapped the executable can't be changed (kernel/fork.c, replace_mm_exe_file).
        batch.call("munmap", SYS_munmap, .init(places.hole), 4096)
        if theirs.number > 0 { batch.call("close_range", SYS_close_range, 0, .init(theirs.number - 1), 0) }
        batch.call("close_range", SYS_close_range, .init(theirs.number + 1), .init(UInt32.max), 0)
        try grafted.run(&batch)
        return process
    }

    /// Makes a process by clone3(2) in this one, as its child or its sibling.
    func fork(_ id: ThreadID, images: ProcessImages?, sibling: Bool, flags: UInt64, places: MemoryRestorer.Places) throws -> RestoringProcess {
        var batch = grafted.batch()
        let call = batch.clone(id, flags: flags | 0x2000 | (sibling ? 0x8000 : 0), exitSignal: sibling ? 0 : SIGCHLD)  // CLONE_PTRACE, CLONE_PARENT
        do throws(SyscallError) { try grafted.run(&batch) } catch { throw CheckpointError.forking(id, error) }
        guard batch.result(call) == Int(id.rawValue) else { throw CheckpointError("restore", .task(id), "the kernel gave it the id \(batch.result(call))") }
        let task = TracedTask.adopt(id)
        try task.waitForFirstStop()
        let child = try Workspace.enter(task, of: id, at: places.workspace)
        return RestoringProcess(pid: id, images: images, grafted: child, channel: channel, socket: flags & 0x400 != 0 ? tableSocket : TableSocket(socket), special: special)
    }

    /// Makes the threads: they stand in their first stop until their state is set.
    func makeThreads() throws {
        guard let images, !images.threads.isEmpty else { return }
        var at = 0
        while at < images.threads.count {
            var batch = grafted.batch()
            let part = images.threads[at..<min(images.threads.count, at + 500)]
            // CLONE_VM | FS | FILES | SIGHAND | PTRACE | THREAD | SYSVSEM
            let calls = part.map { (id: $0.id, call: batch.clone(ThreadID($0.id), flags: 0x100 | 0x200 | 0x400 | 0x800 | 0x2000 | 0x10000 | 0x40000, exitSignal: 0)) }
            do throws(SyscallError) { try grafted.run(&batch) } catch {
                let failed = calls.first { batch.result($0.call) < 0 }?.id ?? part.first!.id
                throw CheckpointError.forking(ThreadID(failed), error)
            }
            for (id, _) in calls {
                let task = TracedTask.adopt(ThreadID(id))
                try task.waitForFirstStop()
                threads.append((ThreadID(id), task))
            }
            at += part.count
        }
    }

    /// Gives descriptors of ours to the process, at the lowest free numbers.
    func receive(_ descriptors: [FileDescriptor]) throws -> [Int32] {
        try DescriptorPassing.send(descriptors, through: channel)
        var batch = grafted.batch()
        let control = batch.receiveDescriptors(descriptors.count, from: .init(socket))
        try grafted.run(&batch)
        let numbers = batch.descriptors(in: control)
        guard numbers.count == descriptors.count else { throw CheckpointError("restore", .task(pid), "it got \(numbers.count) of \(descriptors.count) descriptors") }
        return numbers
    }

    func run(_ build: (inout Batch) throws -> Void) throws {
        var batch = grafted.batch()
        try build(&batch)
        if !batch.isEmpty { try grafted.run(&batch) }
    }

    /// Who has looked at the memory until here, as ps(1) does at the page with the arguments, has got pages of zeros. Nobody would fill them.
    func watchLateMemory(_ fault: Userfault) throws {
        for range in lazyRanges { try fault.register(range, .missing) }
        for _ in 0..<1000 {
            let looked = MemoryTracker.common(try PageScan.present(in: lazyRanges, of: pid), latePages)
            if looked.isEmpty { return }
            for range in looked {
                try fault.unregister(range)
                try run { $0.call("madvise(MADV_DONTNEED)", SYS_madvise, .init(range.lowerBound), .init(range.count), 4) }
                try fault.register(range, .missing)
            }
        }
        throw CheckpointError("restore", .task(pid), "somebody looks at its memory all the time, before it is there", remedy: "find out who reads /proc/\(pid)")
    }
}

extension Batch {
    /// clone3(2) with the id `id` (set_tid). The new task is traced by us from birth (CLONE_PTRACE in `flags`).
    mutating func clone(_ id: ThreadID, flags: UInt64, exitSignal: Int32) -> Call {
        let number = bytes((0..<8).map { $0 < 4 ? UInt8(truncatingIfNeeded: id.rawValue >> (8 * $0)) : 0 })
        let arguments = words([flags, 0, 0, 0, UInt64(exitSignal), 0, 0, 0, number.address, 1])
        return call("clone3", SYS_clone3, arguments.argument, .init(arguments.count))
    }
}

extension CheckpointError {
    /// clone3(2), ERRORS.
    static func forking(_ id: ThreadID, _ error: SyscallError) -> CheckpointError {
        switch error.errno.rawValue {
        case EEXIST:
            let name = (try? TaskStat.of(id))?.comm ?? "a process that has just started"
            return CheckpointError("restore", .task(id), "its id is taken by \(name)", remedy: "end that process, or restore in a pid namespace of its own", errno: error.errno)
        case EPERM:
            return CheckpointError("restore", .task(id), "\(error)", remedy: "run as root, or with CAP_CHECKPOINT_RESTORE", errno: error.errno)
        default: return CheckpointError("restore", .task(id), "\(error)", errno: error.errno)
        }
    }
}
