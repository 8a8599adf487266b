import CLinux
import Glibc
import Graft
import Kinds
import Linux

/// Stops a whole tree: every thread of every process, found again and again until nothing new appears.
struct Freeze {
    let root: ThreadID
    let settings: DumpSettings
    let log: Log
    private let deadline: UInt64
    /// Tasks of a cgroup of version 1, told to stop before they were thawed.
    private var told: [ThreadID: (task: TracedTask, probe: SleepProbe?)] = [:]

    private init(_ root: ThreadID, _ settings: DumpSettings, _ log: Log) {
        (self.root, self.settings, self.log) = (root, settings, log)
        deadline = settings.timeout == 0 ? .max : Clock.monotonic() + UInt64(settings.timeout) * 1_000_000_000
    }

    static func stop(_ root: ThreadID, _ settings: DumpSettings, _ log: Log) throws -> FrozenTree {
        var freeze = Freeze(root, settings, log)
        // The program would see our death between a task's stop and our taking back what the stop did to its system call (prepareThaw).
        return try Foreground.holding { try freeze.run() }
    }

    private mutating func run() throws -> FrozenTree {
        try Self.refuseWhatCannotBeDumped(root)
        let cgroup = try settings.freezeCgroup.map { try CgroupFreezer($0) }
        let began = Clock.monotonic()
        try cgroup?.freeze(until: deadline)
        var stands = false
        defer { if !stands { cgroup?.restore() } }
        if let path = settings.freezeCgroup { log.debug("task \(root): frozen by its cgroup \(path)") }
        if let cgroup, !cgroup.versionTwo {
            for id in cgroup.tasks where id != .current { told[id] = try tellToStop(id, of: id) }
            cgroup.letRun()
        }
        guard let tree = try seizeProcess(root), !tree.isZombie else {
            throw CheckpointError("freeze", .task(root), "it ended while its tree was being frozen", errno: Errno(ESRCH))
        }
        var changed = true
        while changed {
            changed = false
            var todo = [tree]
            while let process = todo.popLast() {
                try seizeThreads(of: process)
                let known = Set(process.children.map(\.id))
                for child in Proc.children(of: process.id, threads: process.threads.map(\.id)) where !known.contains(child) {
                    // It may have ended, and been reaped, in the meantime: then it is not part of the tree.
                    guard let frozen = try seizeProcess(child) else { continue }
                    process.children.append(frozen)
                    changed = true
                }
                todo += process.children
            }
        }
        let stood = Clock.monotonic()
        var ordered = [FrozenProcess]()
        func walk(_ process: FrozenProcess) {
            ordered.append(process)
            for child in process.children.sorted(by: { $0.id < $1.id }) { walk(child) }
        }
        walk(tree)
        log.info("Frozen: \(ordered.count) processes, \(ordered.reduce(0) { $0 + $1.threads.count }) threads in \((stood - began) / 1000) µs")
        stands = true
        cgroup?.letRun()
        return FrozenTree(processes: ordered, began: began, stood: stood, cgroup: cgroup)
    }

    /// One thread runs while `body` works; then it stands still again, with whatever it has begun or ended.
    static func letRun(_ id: ThreadID, of process: ThreadID, in tree: FrozenTree, _ settings: DumpSettings, _ log: Log, _ body: () throws -> Void) throws {
        guard let process = tree.living.first(where: { $0.id == process }), let thread = process.threads.first(where: { $0.id == id }) else {
            throw CheckpointError("wake", .task(id), "it is no thread of task \(process)")
        }
        try Foreground.holding {
            try CheckpointError.about("wake", .task(id)) { try thread.task.run(while: body) }
            try FrozenRegisters.prepareThaw(thread.task)
        }
        thread.registers = try FrozenRegisters(thread.task, nil)
        let now = Set(try Proc.threads(of: process.id))
        for ended in process.threads where !now.contains(ended.id) { while !ended.task.released, (try? ended.task.wait(block: false)) != nil {} }
        process.threads.removeAll { !now.contains($0.id) }
        var freeze = Freeze(tree.root.id, settings, log)
        process.isWhole = false
        try Foreground.holding { try freeze.seizeThreads(of: process) }
    }

    /// What would hurt or can't work, said before anything is touched.
    static func refuseWhatCannotBeDumped(_ root: ThreadID) throws {
        func refuse(_ cause: String, _ remedy: String? = nil) -> CheckpointError { CheckpointError("dump", .task(root), cause, remedy: remedy) }
        if root.rawValue == 1 { throw refuse("it is init", "name the process whose tree you want to save") }
        guard let stat = try? TaskStat.of(root) else {
            throw CheckpointError("dump", .task(root), "there is no such process", remedy: "give the pid of a running process", errno: Errno(ESRCH))
        }
        if stat.flags & 0x200000 != 0 { throw refuse("it is a kernel thread") }
        if stat.state == "Z" { throw refuse("it is dead and waits for its parent \(stat.parent) to take note of it") }
        let status = try Proc.status(root)
        if let leader = status.decimal("Tgid"), leader != UInt64(root.rawValue) { throw refuse("it is a thread", "give the process: -t \(leader)") }
        var ancestor = ThreadID.current
        while ancestor.rawValue > 0 {
            if ancestor == root { throw refuse("stasis itself runs below it", "start stasis from another session, for instance with setsid") }
            guard let parent = try? TaskStat.of(ancestor).parent else { break }
            ancestor = ThreadID(parent)
        }
    }

    /// nil when there is no such process any more.
    private mutating func seizeProcess(_ id: ThreadID) throws -> FrozenProcess? {
        while let before = try? TaskStat.of(id) {
            if before.state == "Z" {
                let threads = (try? Proc.threads(of: id)) ?? [id]
                if threads.count == 1 { return FrozenProcess(id: id, stat: before, state: .zombie(status: before.exitCode)) }
                let process = FrozenProcess(id: id, stat: before, state: .running)
                process.endedLeader = before
                try seizeThreads(of: process)
                guard let first = process.threads.first else { continue }  // they have ended, too: look again
                process.stat = try TaskStat.of(first.id, in: id)
                return process
            }
            let process = FrozenProcess(id: id, stat: before, state: .running)
            guard let thread = try seize(id, of: process) else { continue }  // it has just ended: look again
            // Parent, group and session as they are now that it stands still.
            let now = FrozenProcess(id: id, stat: try TaskStat.of(id), state: process.state)
            now.threads = [thread]
            return now
        }
        return nil
    }

    /// Until no new one appears; a process whose threads all stand still makes none.
    private mutating func seizeThreads(of process: FrozenProcess) throws {
        while !process.isZombie, !process.isWhole { process.isWhole = try !seizeNewThreads(of: process) }
    }

    private mutating func seizeNewThreads(of process: FrozenProcess) throws -> Bool {
        let known = Set(process.threads.map(\.id) + (process.endedLeader == nil ? [] : [process.id]))
        let fresh = ((try? Proc.threads(of: process.id)) ?? []).filter { !known.contains($0) && !process.workers.contains($0) }
        if fresh.isEmpty { return false }
        // All are told to stop before the first is waited for.
        var seized = [(id: ThreadID, task: TracedTask, probe: SleepProbe?)]()
        for id in fresh {
            guard let (task, probe) = try tellToStop(id, of: process.id) else { continue }
            seized.append((id, task, probe))
        }
        for (id, task, probe) in seized where try waitUntilStopped(task, of: process) {
            let thread = try FrozenThread(id: id, task: task, probe: probe)
            if thread.isKernels {
                process.workers.insert(id)
                task.detach()
            } else { process.threads.append(thread) }
        }
        return true
    }

    /// nil when it ended instead.
    private mutating func seize(_ id: ThreadID, of process: FrozenProcess) throws -> FrozenThread? {
        guard let (task, probe) = try tellToStop(id, of: process.id) else { return nil }
        guard try waitUntilStopped(task, of: process) else { return nil }
        return try FrozenThread(id: id, task: task, probe: probe)
    }

    /// nil when it has ended.
    private mutating func tellToStop(_ id: ThreadID, of process: ThreadID) throws -> (task: TracedTask, probe: SleepProbe?)? {
        if let early = told.removeValue(forKey: id) { return early }
        let probe = SleepProbe(of: id, in: process)
        guard let task = try attach(id), (try? task.interrupt()) != nil else { return nil }
        return (task, probe)
    }

    /// The reasons are those of ptrace(2), ERRORS, and of Yama (Documentation/admin-guide/LSM/Yama.rst).
    private func attach(_ id: ThreadID) throws -> TracedTask? {
        // Filters of the task must not apply to what it does for us (ptrace(2), PTRACE_O_SUSPEND_SECCOMP); where we may not
        // suspend them, a task that has filters says so when it fails.
        do throws(SyscallError) { return try TracedTask.seize(id, [.systemCallsMarked], preferred: .seccompSuspended) }
        catch {
            // EPERM is also the answer for a task that has ended meanwhile (kernel/ptrace.c, ptrace_attach).
            let state = (try? Proc.status(id))?["State"]?.first
            if error.errno == Errno(ESRCH) || state == nil || state == "Z" || state == "X" { return nil }
            if let traced = CheckpointError.traced(id) { throw traced }
            throw CheckpointError("freeze", .task(id), "\(error)", remedy: error.errno == Errno(EPERM) ? "run as root, or with CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE" : nil, errno: error.errno)
        }
    }

    /// False when the task ended instead. A signal that comes first is delivered; the stop follows it.
    private func waitUntilStopped(_ task: TracedTask, of process: FrozenProcess) throws -> Bool {
        let told = Clock.monotonic()
        while true {
            guard let event = try CheckpointError.about("freeze", .task(task.id), { try task.wait(block: false) }) else {
                let now = Clock.monotonic()
                if now > deadline {
                    throw CheckpointError(
                        "freeze", .task(task.id), "it did not stop within \(settings.timeout) s" + waitsForChild(task.id), remedy: "give it more time with --timeout SECONDS")
                }
                if now - told > 20_000_000, Foreground.isGone { throw CheckpointError("freeze", .task(root), "stasis was killed") }
                // A stop takes some microseconds, for which looking again is quicker than sleeping; a task in an uninterruptible wait may take long.
                if now - told > 200_000 { usleep(now - told > 20_000_000 ? 1000 : 100) }
                continue
            }
            switch event {
            case .stopped(let signal):
                if signal != SIGTRAP { process.state = .stopped(signal: signal) }
                // At once: should we be killed, the program must not see an EINTR that only our stop made.
                try? FrozenRegisters.prepareThaw(task)
                return true
            case .exited, .killed: return false
            case .signal(let signal): try task.continue(signal: signal)
            case .event, .systemCall: try task.continue()
            }
        }
    }
    private func waitsForChild(_ id: ThreadID) -> String {
        let children = Proc.children(of: id, threads: (try? Proc.threads(of: id)) ?? [])
        guard let first = children.first, (try? TaskStat.of(id))?.state == "D" else { return "" }
        return ": it waits in vfork for its child \(first) to execute a program or to end"
    }
}

/// What a freeze says of a task, and `explain` before it.
extension CheckpointError {
    /// nil when nobody traces the task.
    static func traced(_ id: ThreadID) -> CheckpointError? {
        guard let tracer = (try? Proc.status(id))?["TracerPid"], tracer != "0" else { return nil }
        return CheckpointError("freeze", .task(id), "task \(tracer) already traces it", remedy: "end that debugger or strace", errno: Errno(EPERM))
    }
}
