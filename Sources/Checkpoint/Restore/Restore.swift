import CLinux
import Glibc
import Graft
package import ImageMessages
package import Images
package import Kinds
package import Linux
import Pages

/// A restore from its first to its last step. The order, with the reason for each edge:
///
/// 1. images are read and checked, the tree is planned: nothing is made for images that can't be restored;
/// 2. processes, each with its memory before its children (fork shares pages), sessions and groups as the plan says;
/// 3. open files, made once by us when every process exists (some are files of /proc/PID), then given to their holders;
///    then what is tied to descriptor numbers (epoll entries, controlling terminals), then root and working directory;
/// 4. children before parents, for each process: threads, state, credentials, filters, and at last the workspace unmapped: a parent
///    drains the SIGCHLD that its dead or stopped children raise before its own pending signals are queued;
/// 5. hooks; then all tasks run at once.
package final class Restore {
    package struct Request {
        package var settings = RestoreSettings()
        package var images: FileDescriptor
        /// --decrypt: opens them.
        package var secrets = ImageSecrets.none
        package var work: FileDescriptor
        package var log: Log
        package var plugins = PluginSet()
        package var hook: (_ point: String, _ root: ThreadID?) throws -> Void = { _, _ in }
        package var progress: (_ phase: String, _ done: UInt64, _ total: UInt64) -> Void = { _, _, _ in }
        /// Does the last step, which lets the tree run and can't fail; throws in its place when the tree is not to run.
        package var atLast: (_ letRun: () -> Void) throws -> Void = { $0() }
        package init(images: FileDescriptor, work: FileDescriptor, log: Log) { (self.images, self.work, self.log) = (images, work, log) }
    }
    package struct Result {
        package var root: ThreadID
        package var statistics: RestoreStatsEntry
        package var processes: Int, threads: Int
        package var totalMicroseconds: UInt64
    }

    private let request: Request
    private let input: RestoreInput
    private let plan: TreePlan
    private let context: RestoreContext
    private let cgroups: CgroupRestore
    private let places: MemoryRestorer.Places
    private let network: TreeNetwork
    /// From the first process on: in the tree's network namespace.
    private var stay: NetworkStay?
    private var processes: [Int32: RestoringProcess] = [:]
    private var cpu: SharedCPU?
    private var statistics = RestoreStatsEntry()
    private var rootPid: Int32 { plan.members[0].pid }

    /// The plan of the tree, as `restore --plan` prints it, without making anything.
    package static func plan(_ request: Request) throws -> TreePlan {
        let input = try RestoreInput(try ImageDirectory(request.images, request.secrets), lazily: request.settings.postponesPages)
        return try TreePlan(input.members, shellJob: request.settings.shellJob)
    }

    /// Whether the images are those of `dump --check-only`, of which nothing can be restored.
    package static func isForChecks(_ images: FileDescriptor, _ secrets: ImageSecrets) throws -> Bool { try ImageDirectory(images, secrets).inventory().stasis.checkOnly }

    package static func run(_ request: Request) throws -> Result {
        let began = Clock.monotonic()
        try request.hook("pre-restore", nil)
        let restore = try Restore(request)
        do {
            try restore.startPlugins()
            restore.stay = try restore.network.enter(restore.context)
            let lazy = try restore.make(began)
            try restore.verifyPages()
            try restore.resumeDevices()
            let root = ThreadID(restore.rootPid)
            try restore.hook("post-restore", root)
            try restore.hook("pre-resume", root)
            try lazy?.finish()
            try restore.letRun()
        } catch {
            request.plugins.end(.failed)
            let damage = restore.context.verification?.stop()
            restore.killAll()
            for undo in restore.context.undo.reversed() { undo() }
            for cleanup in restore.context.cleanup.reversed() { cleanup() }
            restore.stay?.leave()
            if let damage { throw CheckpointError("restore", damage) }
            throw error
        }
        for cleanup in restore.context.cleanup.reversed() { cleanup() }
        restore.stay?.leave()
        request.plugins.end(.done(treeRuns: true))
        if request.settings.freesPages { restore.freePages() }
        try? request.hook("post-resume", ThreadID(restore.rootPid))
        let total = (Clock.monotonic() - began) / 1000
        restore.statistics.restoreTime = UInt32(truncatingIfNeeded: total)
        try restore.writeStatistics()
        return Result(root: ThreadID(restore.rootPid), statistics: restore.statistics, processes: restore.plan.members.count,
                      threads: restore.input.processes.values.reduce(0) { $0 + 1 + $1.threads.count }, totalMicroseconds: total)
    }

    /// Everything but letting it run.
    private func make(_ began: UInt64) throws -> LazyRestore? {
        DescriptorLimit.makeRoom(for: input.files.count + 2000)
        // Entries that only mappings, executables and directories refer to are opened where they are used.
        let files = try input.filesInUse(context)
        for type in files.keys where !OpenFileKinds.all.contains(where: { $0.type == type }) { throw Self.unknownType(type) }
        RegularFile.beginOpening(files[.reg] ?? [], context)
        cpu = SharedCPU()
        defer { cpu?.leave() }
        try makeProcesses(began)
        try request.plugins.afterForking()
        try makeFiles(files)
        let lazy = try handOverLazyMemory()
        try setState()
        try context.feeders.finish()  // our copies of open files are closed: the end of a pipe must be the tree's alone
        return lazy
    }

    private init(_ request: Request) throws {
        self.request = request
        let images = try ImageDirectory(request.images, request.secrets)
        if let rules = request.settings.processor { try Self.checkProcessor(images, rules, request.log) }
        let verification = request.settings.verifies ? Verification() : nil
        input = try Self.read(images, request, verification)
        if input.inventory.stasis.checkOnly {
            throw CheckpointError("restore", .image("inventory.img"), "the images are of dump --check-only, without memory", remedy: "dump without --check-only")
        }
        try request.plugins.check(input.inventory)
        plan = try TreePlan(input.members, shellJob: request.settings.shellJob)
        try input.checkIDs(plan)
        if let refused = (CallerRights.refusals(input, plan) + KernelNeeds.refusals(input)).first { throw refused }
        try MemoryRoom.check(input.processes.values.map { ($0.pid, $0.pages.bytes) })
        network = try input.network(request.settings)
        context = RestoreContext(settings: request.settings, log: request.log, images: images, files: input.files)
        context.runID = input.inventory.dumpCriuRunID
        context.verification = verification
        context.plugins = request.plugins
        places = .init(hole: try MemoryPlan.commonHole(input.processes.values.map(\.mm), size: MemoryRestorer.Places.size))
        do {
            cgroups = try CgroupRestore(image: input.cgroups, own: input.inventory.rootCgSet, request.settings.cgroups, context)
        } catch {
            for undo in context.undo.reversed() { undo() }
            throw error
        }
        statistics.pagesCompared = 0
        statistics.pagesSkippedCow = 0
        statistics.pagesRestored = 0
        request.log.info("Plan: \(plan.members.count) processes, \(plan.helpers.count) helpers, workspace at 0x\(String(places.hole, radix: 16))")
    }

    /// Images are held against their checksums while they are read: damage is the first cause of whatever else is wrong with them.
    static func read(_ images: ImageDirectory, _ request: Request, _ verification: Verification?) throws -> RestoreInput {
        do {
            if let verification, let checksums = try FileChecksums(of: images) { verification.add(checksums, of: images) }
            let input = try RestoreInput(images, lazily: request.settings.postponesPages, verifies: verification != nil)
            try verification?.finish()
            return input
        } catch {
            if let damage = verification?.problems().first { throw CheckpointError("restore", damage) }
            throw error
        }
    }

    /// Before all else: a program that meets an instruction which this CPU lacks dies of it much later.
    static func checkProcessor(_ images: ImageDirectory, _ rules: ProcessorRules, _ log: Log) throws {
        let comparison = try Processor.compare(try images.singleIfPresent(.cpuinfo), rules)
        for warning in comparison.warnings { log.warn("\(warning.text); CRIU's rules leave these out") }
        if let error = comparison.error { throw error }
    }

    // MARK: namespaces

    /// Its interfaces come before all sockets. Scripts reach the namespace through the root's /proc/PID/ns/net.
    private func restoreNetwork() throws {
        guard let stay, network.isNew else { return }
        try hook("setup-namespaces", ThreadID(rootPid))
        try network.restore(stay, context)
        try hook("post-setup-namespaces", ThreadID(rootPid))
    }

    /// Action scripts run where stasis was called.
    private func hook(_ point: String, _ root: ThreadID) throws {
        guard let stay else { return try request.hook(point, root) }
        try stay.outside { try request.hook(point, root) }
    }

    // MARK: processes

    private func makeProcesses(_ began: UInt64) throws {
        let root = rootPid
        guard let images = input.processes[root] else { throw CheckpointError("restore", .task(.init(root)), "the root of the tree is dead") }
        processes[root] = try RestoringProcess.root(pid: ThreadID(root), images: images, places: places, sibling: request.settings.sibling)
        try enterCgroups(processes[root]!, from: cgroups.start)
        try restoreNetwork()
        var memoryTime: UInt64 = 0
        for step in plan.steps {
            request.log.debug("\(step)")
            let start = Clock.monotonic()
            try perform(step)
            if case .memory = step { memoryTime += Clock.monotonic() - start }
        }
        statistics.forkingTime = UInt32(truncatingIfNeeded: (Clock.monotonic() - began - memoryTime) / 1000)
    }

    private func perform(_ step: TreePlan.Step) throws {
        switch step {
        case .memory(let pid):
            let process = try self.process(pid)
            let memory = MemoryRestorer(process: process, parent: process.original, context: context, places: places) { [request] in
                request.progress("memory of \(pid)", $0, $1)
            }
            try CheckpointError.about("restore the memory of", .task(.init(pid))) { try memory.restore(&statistics) }
        case .fork(let pid, let maker, let sibling):
            let by = try process(maker)
            let images = input.processes[pid]
            // Descriptor table and file system context shared with the maker (CLONE_FILES 0x400, CLONE_FS 0x200).
            var flags: UInt64 = 0
            if let its = images?.ids, let others = by.images?.ids {
                if its.filesID == others.filesID { flags |= 0x400 }
                if its.fsID == others.fsID, its.fsID != 0 { flags |= 0x200 }
            }
            let made = try by.fork(ThreadID(pid), images: images, sibling: sibling, flags: flags, places: places)
            made.original = by.images == nil ? by.original : by
            processes[pid] = made
            try enterCgroups(made, from: by.cgroupSet)
        case .newSession(let pid):
            let leader = try process(pid)
            try CheckpointError.about("restore", .task(.init(pid))) { try leader.run { $0.call("setsid", SYS_setsid) } }
            // Before it forks: members of the session inherit the controlling terminal, and have no other way to it.
            if leader.images != nil { try ControllingTerminal.take(leader, context) }
        case .joinGroup(let pid, let group):
            try CheckpointError.about("restore", .task(.init(pid))) { try process(pid).run { $0.call("setpgid", SYS_setpgid, 0, .init(group)) } }
        case .end(let helper):
            try end(helper, status: 0)
            if let parent = makerParent(of: helper) { try parent.run { $0.call("wait4", SYS_wait4, .init(helper), 0, .init(0x4000_0000), 0) } }
            processes[helper] = nil
        case .leave(let helper, let reaper):
            // Only those subreapers stand in between that the state of a process makes, later (prctl(2), PR_SET_CHILD_SUBREAPER).
            func reaps(_ on: Int32) throws { try process(reaper).run { $0.call("prctl(PR_SET_CHILD_SUBREAPER)", SYS_prctl, 36, .init(on), 0, 0, 0) } }
            try reaps(1)
            try perform(.end(helper: helper))
            try reaps(0)
        case .die(let pid):
            try end(pid, status: Int32(bitPattern: input.zombies[pid]!.tc.exitCode))
            processes[pid] = nil
        }
    }

    /// Before it has memory of its own, which is charged to its group.
    private func enterCgroups(_ process: RestoringProcess, from set: UInt32) throws {
        process.cgroupSet = process.images?.cgroupSet ?? set
        try CheckpointError.about("restore", .task(process.pid)) {
            guard process.pid.rawValue == rootPid, let ids = process.images?.ids, ids.hasCgroupNsID, ids.cgroupNsID != input.inventory.rootIds.cgroupNsID else {
                return try cgroups.move(process.pid, to: process.cgroupSet, from: set, isThread: false)
            }
            try cgroups.moveToNamespaceRoot(process.pid, of: process.cgroupSet)
            try process.run { $0.call("unshare(CLONE_NEWCGROUP)", SYS_unshare, 0x200_0000) }
            try cgroups.move(process.pid, to: process.cgroupSet, from: nil, isThread: false)
        }
    }

    private func process(_ pid: Int32) throws -> RestoringProcess {
        guard let found = processes[pid] else { throw CheckpointError("restore", .task(.init(pid)), "it is needed before it exists") }
        return found
    }
    private func makerParent(of helper: Int32) -> RestoringProcess? {
        for case .fork(helper, let maker, false) in plan.steps { return processes[maker] }
        return nil
    }

    /// A zombie's or helper's death, with the wait status it had. We take note of it as its tracer; its parent still can.
    private func end(_ pid: Int32, status: Int32) throws {
        let process = try process(pid)
        let signal = status & 0x7f
        if let core = input.zombies[pid] {
            try process.run { batch in
                batch.call("prctl(PR_SET_NAME)", SYS_prctl, 15, batch.string(String(core.tc.comm.prefix(15))))
                let none = batch.words([0, 0])
                batch.call("prlimit64(RLIMIT_CORE)", SYS_prlimit64, 0, 4, none.argument, 0)
            }
        }
        if signal == 0 {
            var batch = process.grafted.batch()
            batch.call("exit_group", SYS_exit_group, .init((status >> 8) & 0xff))
            try process.grafted.start(&batch)
        } else {
            try process.grafted.task.setSignalMask(0)
            try process.grafted.task.continue(signal: signal)
        }
        while true {
            switch try process.grafted.task.wait()! {
            case .exited, .killed: return
            case .signal(let other): try process.grafted.task.continue(signal: other)
            default: try process.grafted.task.continue()
            }
        }
    }

    // MARK: plugins

    private func startPlugins() throws {
        let session = PluginSession(images: request.images, log: request.log, needed: input.inventory.neededPlugins)
        session.letRun = { [unowned self] id, pid, body in
            let process = try process(pid.rawValue)
            guard let task = id == pid ? process.grafted.task : process.threads.first(where: { $0.id == id })?.task else {
                throw CheckpointError("wake", .task(id), "it is no thread of task \(pid)")
            }
            try CheckpointError.about("wake", .task(id)) { try task.run(while: body) }
        }
        session.task = { [unowned self] in processes[$0.rawValue] }
        session.files = { [unowned self] in Set(input.processes[$0.rawValue].flatMap { input.tables[$0.ids.filesID] }?.map(\.id) ?? []) }
        try request.plugins.begin(.restore, session)
        try request.plugins.beginRestore()
    }

    private var living: [RestoringProcess] { plan.members.compactMap { member in processes[member.pid].flatMap { $0.images == nil ? nil : $0 } } }

    /// Nothing is missing any more but the tasks' running.
    private func resumeDevices() throws { try request.plugins.resumeDevices(of: living.map(\.pid)) }

    // MARK: memory that comes later

    /// Every process exists, and nothing has touched its memory yet: from here on pages come from the lazy-pages daemon as they are touched.
    private func handOverLazyMemory() throws -> LazyRestore? {
        guard request.settings.postponesPages else { return nil }
        let daemon = try request.settings.loadsBehind
            ? BackgroundLoad.start(request.images, request.secrets, work: request.work, verifies: request.settings.verifies) : LazyRestore(socketIn: request.work)
        for member in plan.members {
            guard let process = processes[member.pid], process.images != nil else {
                if input.zombies[member.pid] != nil { try daemon.skip(member.pid) }
                continue
            }
            guard let fault = process.fault else { continue }
            try CheckpointError.about("restore", .task(process.pid)) {
                try process.watchLateMemory(fault)
                try daemon.add(member.pid, fault)
            }
            process.fault = nil
        }
        return daemon
    }

    // MARK: files

    private func makeFiles(_ byType: [FdTypes: [FileEntry]]) throws {
        let kinds = OpenFileKinds.all
        func entries(_ kind: any OpenFileKind.Type) -> [FileEntry] { byType[kind.type] ?? [] }
        context.task = { [unowned self] in processes[$0.rawValue] }
        let stands = try standInsForFdinfo(byType[.reg] ?? [])
        for kind in kinds { try kind.make(entries(kind), context) }
        for (process, number) in stands { try process.run { $0.call("close", SYS_close, .init(number)) } }
        for kind in kinds { try kind.finish(entries(kind), context) }
        var tables = Set<UInt32>()
        var owners = [(process: RestoringProcess, entries: [FdinfoEntry])]()
        for member in plan.members {
            guard let process = processes[member.pid], let images = process.images, tables.insert(images.ids.filesID).inserted else { continue }
            owners.append((process, input.tables[images.ids.filesID] ?? []))
        }
        for (process, entries) in owners { try DescriptorTable(process, entries).fill(context) }
        for (process, table) in owners {
            let mine = Dictionary(grouping: table.compactMap { entry in
                input.files[entry.id].map { (number: Int32(bitPattern: entry.fd), entry: $0) }
            }, by: \.entry.type)
            for kind in kinds { if let descriptors = mine[kind.type] { try kind.inTask(descriptors, process, context) } }
            for ring in table where ring.type == IOUringFile.type && ring.flags & 1 == 0 { try process.run { $0.call("fcntl(F_SETFD)", SYS_fcntl, .init(ring.fd), .init(F_SETFD), 0) } }
        }
        for member in plan.members {
            guard let process = processes[member.pid], let images = process.images else { continue }
            try PacketSocket.mapRings(of: images.mm.vmas, in: process, context)
            try PluginMapping.map(images.mm.vmas, in: process, context)
            try IOUringFile.map(images.mm.vmas, in: process, context)
        }
        if let first = owners.first { try Epoll.fillQueued(first.process, context) }
        for member in plan.members where member.session == member.pid {
            if let leader = processes[member.pid], leader.images != nil { try ControllingTerminal.setForeground(leader, context) }
        }
        for member in plan.members {
            guard let process = processes[member.pid], let images = process.images else { continue }
            try CheckpointError.about("restore", .image("fs-\(member.pid).img")) {
                let (working, root) = try FileSystemContext.open(images.fs, context)
                let numbers = try process.receive([working] + (root.map { [$0] } ?? []))
                try process.run { batch in
                    FileSystemContext.add(to: &batch, images.fs, working: numbers[0], root: root == nil ? nil : numbers[1])
                    for number in numbers { batch.call("close", SYS_close, .init(number)) }
                }
            }
        }
        try takeLocks()
        try network.restoreFilters(context)
        for (process, _) in owners { try process.run { $0.call("close", SYS_close, .init(process.socket)) } }
        DeadProcess.end(context)
        context.forgetDescriptors()
    }

    static func unknownType(_ type: FdTypes) -> CheckpointError {
        CheckpointError("restore", .image("files.img"), "files of type \(type) are not supported yet")
    }

    /// An open /proc/PID/fdinfo/N of the tree can be opened while the task has some descriptor N; it is read by number (fs/proc/fd.c).
    private func standInsForFdinfo(_ files: [FileEntry]) throws -> [(RestoringProcess, Int32)] {
        var made = [(RestoringProcess, Int32)]()
        for entry in files {
            let name = entry.reg.name
            guard name.hasPrefix("/proc/") else { continue }
            let parts = name.split(separator: "/")
            guard parts.count >= 4, parts[parts.count - 2] == "fdinfo", let pid = Int32(parts[1]), let number = Int32(parts[parts.count - 1]), number >= 0,
                let process = processes[pid], number != process.socket, !made.contains(where: { $0.0 === process && $0.1 == number })
            else { continue }
            var batch = process.grafted.batch()
            let call = batch.call("dup3", SYS_dup3, .init(process.socket), .init(number), .init(O_CLOEXEC), mayFail: true)
            try process.grafted.run(&batch)
            if batch.result(call) == Int(number) { made.append((process, number)) }
        }
        return made
    }

    /// When nothing is opened or closed in the tasks any more: closing drops POSIX locks, opening breaks leases.
    private func takeLocks() throws {
        let locks = try FileLockRestore(context)
        for leases in [false, true] {
            for pid in locks.processes {
                guard let process = processes[pid], let images = process.images else {
                    throw CheckpointError("restore", .image("filelocks.img"), "it has locks of task \(pid), which is not in the tree")
                }
                let table = (input.tables[images.ids.filesID] ?? []).map { (Int32(bitPattern: $0.fd), $0.id) }
                try locks.restore(leases: leases, in: process, files: Dictionary(table, uniquingKeysWith: { a, _ in a }), context)
            }
        }
    }

    // MARK: state

    /// Waits for the checksums of all pages that were read: nothing has run with them yet.
    private func verifyPages() throws {
        do throws(ImageError) { try context.verification?.finish() } catch { throw CheckpointError("restore", error) }
    }

    private func setState() throws {
        for member in plan.members.reversed() {
            guard let process = processes[member.pid], let images = process.images else { continue }
            try CheckpointError.about("restore", .task(process.pid)) {
                try StateRestorer(process: process, images: images, filters: input.seccomp, context: context).restore(cgroups: cgroups)
            }
        }
        try cgroups.setProperties()
    }

    /// The last step: all run or, if we are killed in the middle of it, none. One process alone is let go as a whole by the kernel.
    private func letRun() throws {
        let all = plan.members.compactMap { processes[$0.pid] }
        // A tracer's death kills what it still traces (PTRACE_O_EXITKILL), but not what it has let go already.
        let watch = all.count > 1 ? try Guardian(killing: all.map(\.pid)) : nil
        defer { watch?.dismiss() }
        try request.atLast { release(all) }
    }

    /// Nothing of it can fail.
    private func release(_ all: [RestoringProcess]) {
        for step in context.beforeRun { step() }
        if request.settings.leaveStopped { for process in all { _ = kill(process.pid.rawValue, SIGSTOP) } }
        for process in all {
            if let cpu, let images = process.images {
                cpu.give(process.pid, images.core)
                for (thread, image) in zip(process.threads, images.threads) { cpu.give(thread.id, image.core) }
            }
            for (_, task) in process.threads { task.detach() }
            process.grafted.task.detach()
        }
    }

    /// --auto-dedup. The tree runs: whatever goes wrong costs only room on the disk.
    private func freePages() {
        do { try Dedup.freeAll(try context.pageChain()) } catch {
            request.log.warn("--auto-dedup: \(error)")
        }
    }

    private func killAll() {
        for process in processes.values { _ = kill(process.pid.rawValue, SIGKILL) }
        for process in processes.values {
            for task in process.threads.map(\.task) + [process.grafted.task] {
                var tries = 0
                while !task.released, tries < 1000, (try? task.wait()) != nil { tries += 1 }
            }
        }
        var status: Int32 = 0
        _ = try? Syscall.call("wait4", SYS_wait4, value: &status, at: 1, Int(rootPid), 1)
    }

    private func writeStatistics() throws {
        var entry = StatsEntry()
        entry.restore = statistics
        let images = DumpImages(directory: request.work)
        try images.append("stats-restore", entry)
        try images.finish()
    }
}
