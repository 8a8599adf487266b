import CLinux
import Glibc
import Graft
package import ImageMessages
package import Images
package import Kinds
package import Linux
package import Pages

/// A dump from its first to its last step. The order, with the reason for each edge:
///
/// 1. plugins start; hook `pre-dump`; the image directory is looked at: nothing is frozen for a dump that can't be written; plugins bring
///    devices to rest, for which the processes must run;
/// 2. freeze: all that follows reads a tree that stands still; first plugins save what is in devices, which may change memory and descriptors;
/// 3. for each process, parents first: ids, descriptors (before memory: pages of shared memory are met through them), mappings, pages,
///    then its threads; each process is in a graft only for that time;
/// 4. zombies, pstree, clocks, cgroups: they need no graft;
/// 5. every image flushed, then `inventory.img`, by rename: the commit. Before it any failure thaws the tree and removes what was written;
/// 6. hook `post-dump`, while the tree still stands: its failure thaws the tree;
/// 7. the hand-over to whoever restores it elsewhere, which decides about the end;
/// 8. the end asked for: kill, stop or run on. Where the tree goes on, whatever the reason, plugins first let its devices go on.
///
/// With --snapshot the tree runs on after 4: private memory was copied (fork(2)) and is written from the copies then, before 5.
package enum Dump {
    package struct Request {
        package var root: ThreadID
        package var settings = DumpSettings()
        package var images: FileDescriptor
        package var work: FileDescriptor
        package var log: Log
        /// --encrypt: who may read the images.
        package var recipients = ImageRecipients.nobody
        /// --decrypt: opens the images of earlier dumps.
        package var secrets = ImageSecrets.none
        /// --page-server: takes the pages in place of the image directory.
        package var pageServer: PageServerPlace?
        /// --lazy-pages: gives the pages that were postponed to who restores, while the tree stands.
        package var give: ((any PageSource) throws -> Void)?
        /// Gives the tree, saved and standing still, to another machine, and answers what is to become of it here. Throws when it is to run on.
        /// - Parameter postponed: the pages that were not saved.
        package var handOver: ((FrozenTree, _ postponed: FrozenPageSource) throws -> DumpSettings.Ending)?
        /// Who holds the memory trackers between two dumps of one process of ours; nil: the keeper.
        package var trackers: TrackerHolder?
        /// Runs an action-script hook point; throws when a script's failure is to end the dump.
        package var hook: (_ point: String) throws -> Void = { _ in }
        package var plugins = PluginSet()
        package var progress: (_ phase: String, _ done: UInt64, _ total: UInt64) -> Void = { _, _, _ in }
        package init(root: ThreadID, images: FileDescriptor, work: FileDescriptor, log: Log) {
            (self.root, self.images, self.work, self.log) = (root, images, work, log)
        }
        /// What the images are encrypted with, whose key is in the directory from now on.
        func seal() throws -> ImageSeal? {
            try CheckpointError.about("encrypt", .object("the images")) { try recipients.seal(images, pagesElsewhere: pageServer != nil) }
        }
        var pluginSession: PluginSession { PluginSession(images: images, log: log, timeout: settings.timeout) }
    }

    package struct Result {
        package var statistics = DumpStatsEntry()
        package var processes = 0, threads = 0
        package var bytes: UInt64 = 0
        package var totalMicroseconds: UInt64 = 0
    }

    package static func run(_ request: Request) throws -> Result {
        try request.plugins.begin(.dump, request.pluginSession)
        do { return try runWithPlugins(request) } catch {
            request.plugins.end(.failed)
            throw error
        }
    }

    private static func runWithPlugins(_ request: Request) throws -> Result {
        let began = Clock.monotonic()
        try request.hook("pre-dump")
        let commit = try Commit(directory: request.images)
        let tree: FrozenTree, incremental: Incremental, server: PageServerClient?, seal: ImageSeal?, mappings: MappingReader
        do {
            seal = try request.seal()
            server = try request.pageServer.map { try PageServerClient($0) }
            incremental = try Incremental(request, tracks: request.settings.tracksMemory && request.settings.ending != .kill)
            if request.plugins.has(.pauseDevices) { try request.plugins.pauseDevices(of: Explanation.tree(request.root)) }
            mappings = MappingReader(tree: request.root)
            tree = try Freeze.stop(request.root, request.settings, request.log)
        } catch {
            commit.rollBack()
            throw error
        }
        request.plugins.session?.letRun = { try Freeze.letRun($0, of: $1, in: tree, request.settings, request.log, $2) }
        let context = DumpContext(settings: request.settings, log: request.log, images: DumpImages(directory: request.images, compression: request.settings.compression, seal: seal, directly: request.settings.directIO))
        context.images.writesBehind = tree.threadCount > 32
        (context.runID, context.hook, context.mappings) = (incremental.run, request.hook, mappings)
        context.receiver = server
        context.plugins = request.plugins
        defer { context.forgetSteps() }
        do {
            try request.plugins.checkpointDevices(of: tree.living.map(\.id))
            var postponed: [UInt32: FrozenPageSource.Pages] = [:]
            var result = try save(tree, context, incremental, request, &postponed)
            if request.settings.snapshots {
                letRun(tree, context, request)
                context.statistics.frozenTime = UInt32(truncatingIfNeeded: (Clock.monotonic() - tree.began) / 1000)
                for step in context.background { try step() }
            }
            try finish(context, request, commit, incremental, &result)
            try request.hook("post-dump")
            if let give = request.give { try give(FrozenPageSource(postponed)) }
            let ending = try request.handOver.map { try $0(tree, FrozenPageSource(postponed)) } ?? request.settings.ending
            switch ending {
            case .kill:
                for step in context.beforeKill { try step() }
                try tree.kill()
                for step in context.afterKill { step() }
                request.plugins.end(.done(treeRuns: false))
            case .leaveStopped:
                try Foreground.holding {
                    for step in context.beforeStop { try step() }
                    letRun(tree, context, request, stopped: true)
                }
            case .leaveRunning: if !request.settings.snapshots { letRun(tree, context, request) }
            }
            let ended = Clock.monotonic()
            if ending != .kill { incremental.finish(succeeded: true) }
            if !request.settings.snapshots { result.statistics.frozenTime = UInt32(truncatingIfNeeded: ((tree.killed ?? ended) - tree.began) / 1000) }
            result.totalMicroseconds = (ended - began) / 1000
            try writeStatistics(result.statistics, to: request.work)
            return result
        } catch {
            request.plugins.end(.failed)
            for undo in context.undo.reversed() { undo() }
            for end in context.endCopies { end() }
            context.images.cancel()
            commit.rollBack()
            tree.thaw()
            incremental.finish(succeeded: false)
            throw error
        }
    }

    private static func letRun(_ tree: FrozenTree, _ context: DumpContext, _ request: Request, stopped: Bool = false) {
        request.plugins.end(.done(treeRuns: true))
        for undo in context.undo.reversed() { undo() }
        context.undo = []
        tree.thaw(stopped: stopped)
    }

    /// `dump --check-only`: all that a dump would refuse. The tree stands for as long as a dump's would without the writing of memory,
    /// and runs on. What a restore needs to check, the directory has afterwards, if nothing was refused. Hooks do not run.
    package static func check(_ request: Request) throws -> CheckReport {
        let commit = try Commit(directory: request.images)
        let seal: ImageSeal?
        do { seal = try request.seal() } catch {
            commit.rollBack()
            throw error
        }
        let context = DumpContext(settings: request.settings, log: request.log, images: DumpImages(directory: request.images, seal: seal), purpose: .check)
        (context.plugins, context.mappings) = (request.plugins, MappingReader(tree: request.root))
        defer { context.forgetSteps() }
        var report = CheckReport("dump")
        do {
            try request.plugins.begin(.dump, request.pluginSession)
            defer { request.plugins.end(.failed) }
            let tree = try Freeze.stop(request.root, request.settings, request.log)
            defer {
                for undo in context.undo.reversed() { undo() }
                tree.thaw()
            }
            var postponed: [UInt32: FrozenPageSource.Pages] = [:]
            let incremental = try Incremental(root: request.root, previous: nil, tracks: false, run: RunID.make(), images: request.images, request.log)
            var result = try save(tree, context, incremental, request, &postponed)
            try finish(context, request, commit, incremental, &result)
            report.verdicts.append(Verdict(ok: "the tree of task \(request.root)", "\(result.processes) processes and \(result.threads) threads stood still for it"))
        } catch {
            if !context.refusals.contains(where: { "\($0)" == "\(error)" }) { report.verdicts.append(Verdict(error, about: "task \(request.root)")) }
            // What the freeze does not get to, the running tree shows.
            if context.processes.isEmpty, let explanation = try? Explanation(of: request.root, request.settings, request.plugins, request.log) {
                for refusal in explanation.refusals where refusal.cause != report.verdicts.last?.text { report.verdicts.append(Verdict(refusal, about: "task \(request.root)")) }
            }
        }
        report.verdicts += context.refusals.map { Verdict($0, about: "task \(request.root)") }
        if !report.passes {
            context.images.cancel()
            commit.rollBack()
        }
        return report
    }

    private static func save(
        _ tree: FrozenTree, _ context: DumpContext, _ incremental: Incremental, _ request: Request, _ postponed: inout [UInt32: FrozenPageSource.Pages]
    ) throws -> Result {
        let clocks = TimeNamespace.clocks()
        context.processes = tree.living.map(\.view)
        context.members = Set(tree.processes.flatMap { [$0.id] + $0.threads.map(\.id) })
        let namespaces = try Namespaces.check(context.processes, context)
        // All that is looked at from here to the end of this function is of the tree's network.
        let stay = try namespaces.enterNetwork(context)
        defer { stay?.leave() }
        let collector = try FileCollector(context, processes: context.processes)
        context.saveFile = { try collector.saveInFlight($0, $1) }
        var sharing = Sharing()
        let cgroups = CgroupSets(request.settings.cgroups)
        let seccomp = SeccompCollector()

        var dumpers = [ProcessDumper]()
        let total = UInt64(tree.threadCount)
        var done: UInt64 = 0
        for process in tree.living {
            let dumper = ProcessDumper(process, context, collector, namespaces: namespaces, cgroups: cgroups, seccomp: seccomp)
            dumper.incremental = incremental
            dumper.progress = { request.progress("memory of \(process.id)", $0, $1) }
            try context.attempt { try CheckpointError.about("dump", .task(process.id)) { try dumper.dump(&sharing, parent: parent(of: process, in: tree)) } }
            if !dumper.postponed.isEmpty { postponed[UInt32(process.id.rawValue)] = .init(dumper.postponed, of: process.view) }
            dumpers.append(dumper)
            done += UInt64(process.threads.count)
            request.progress("dump", done, total)
        }
        for process in tree.processes { if case .zombie(let status) = process.state { try dumpZombie(process, status, context) } }
        for process in tree.processes { try context.images.append("pstree.img", pstreeEntry(process, in: tree)) }
        try context.images.append("timens-0.img", clocks)
        try context.images.append("seccomp.img", seccomp.image)
        if let image = try cgroups.image() { try context.images.append("cgroup.img", image) }
        try context.attempt { try SysVSharedMemory.finishDump(context) }
        try context.plugins.dumpDevicesLate(of: context.processes)
        try namespaces.saveNetwork(context)
        for late in context.late { try context.attempt { try CheckpointError.about("dump", .task(tree.root.id)) { try late() } } }
        if request.settings.processor { try context.images.append(Processor.image, Processor.here()) }

        context.statistics.freezingTime = UInt32(truncatingIfNeeded: (tree.stood - tree.began) / 1000)
        var result = Result()
        (result.processes, result.threads) = (tree.processes.count, tree.threadCount)
        return result
    }

    /// Everything is written: the commit.
    private static func finish(_ context: DumpContext, _ request: Request, _ commit: Commit, _ incremental: Incremental, _ result: inout Result) throws {
        if let server = context.receiver as? PageServerClient { try server.finish() }
        if let first = context.refusals.first { throw first }
        try commit.finish(context.images, inventory: inventory(context, incremental), ownPages: context.receiver == nil)
        result.statistics = context.statistics
        result.bytes = context.statistics.pagesWritten * 4096
    }

    private static func parent(of process: FrozenProcess, in tree: FrozenTree) -> ThreadID? {
        tree.processes.first { $0.children.contains { $0 === process } }?.id
    }

    /// Session and group of a root that follows a shell outside keep that shell's numbers; the restorer replaces them (--shell-job).
    private static func pstreeEntry(_ process: FrozenProcess, in tree: FrozenTree) -> PstreeEntry {
        var entry = PstreeEntry()
        entry.pid = UInt32(process.id.rawValue)
        entry.ppid = parent(of: process, in: tree).map { UInt32($0.rawValue) } ?? 0
        entry.pgid = UInt32(process.stat.group)
        entry.sid = UInt32(process.stat.session)
        entry.threads = process.isZombie ? [entry.pid] : (process.endedLeader == nil ? [] : [entry.pid]) + process.threads.map { UInt32($0.id.rawValue) }
        return entry
    }

    private static func dumpZombie(_ process: FrozenProcess, _ status: Int32, _ context: DumpContext) throws {
        var core = CoreEntry()
        core.mtype = .x8664
        core.tc.taskState = 2
        core.tc.exitCode = UInt32(bitPattern: status)
        (core.tc.personality, core.tc.flags, core.tc.blkSigset) = (0, UInt32(truncatingIfNeeded: process.stat.flags), 0)
        core.tc.comm = process.stat.comm
        try context.images.append("core-\(process.id).img", core)
    }

    private static func inventory(_ context: DumpContext, _ incremental: Incremental) -> InventoryEntry {
        var entry = InventoryEntry()
        entry.imgVersion = 2
        entry.fdinfoPerID = true
        entry.nsPerID = true
        var ids = Namespaces.ownIDs
        (ids.vmID, ids.filesID, ids.fsID, ids.sighandID) = (1, 1, 1, 1)
        entry.rootIds = ids
        if !context.settings.cgroups.ignored { entry.rootCgSet = 1 }
        entry.lsmtype = .noLsm
        // 1 nftables, 2 skip: whether a lock is left for the restore, which is one of the last steps.
        entry.networkLockMethod = context.settings.locksNetwork && !(context.beforeKill.isEmpty && context.beforeStop.isEmpty) ? 1 : 2
        entry.pluginsEntry.plugins = context.plugins.used
        entry.dumpCriuRunID = incremental.run
        if incremental.tracks { entry.dumpUptime = Clock.boottime() / 1000 }
        if context.settings.tcpClose { entry.tcpClose = true }
        entry.stasis.version = "0.1.0"
        entry.stasis.checksums = true
        entry.stasis.hostShm = context.hostSharedMemory
        if context.purpose == .check { entry.stasis.checkOnly = true }
        return entry
    }

    static func writeStatistics(_ statistics: DumpStatsEntry, to directory: FileDescriptor) throws {
        var entry = StatsEntry()
        entry.dump = statistics
        let images = DumpImages(directory: directory)
        try images.append("stats-dump", entry)
        try images.finish()
    }
}

/// An image directory is whole or it is not one: `inventory.img` appears, by rename, when all else is written and flushed.
/// A directory that has one already is left alone.
final class Commit {
    private let directory: FileDescriptor
    private let before: Set<String>

    init(directory: FileDescriptor) throws {
        self.directory = directory
        before = Set((try? Files.names(in: ".", at: directory.number)) ?? [])
        if before.contains("inventory.img") {
            let path = (try? Files.link(directory.procPath)) ?? "this directory"
            throw CheckpointError("dump", .object("into \(path)"), "it holds an earlier dump (inventory.img)", remedy: "remove that, or give another directory with -D", errno: Errno(EEXIST))
        }
        // Of a dump that was killed: what is written now may not be encrypted.
        if before.contains(ImageKind.encryption.name()) { try? Files.unlink(ImageKind.encryption.name(), at: directory.number) }
        // Say now, not after the freeze, that nothing can be written here.
        try CheckpointError.about("write", .image("inventory.img.tmp"), remedy: "give a directory that you may write to with -D") {
            _ = try FileDescriptor.open("inventory.img.tmp", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644, at: directory.number)
        }
    }

    /// - Parameter ownPages: whether no page server has the pages.
    func finish(_ images: DumpImages, inventory: InventoryEntry, ownPages: Bool) throws {
        try images.append("inventory.img.tmp", inventory)
        try CheckpointError.about("write", .object("the images"), remedy: "free space, or give another directory with -D") {
            try images.finish()
            try images.writeChecksums(ownPages: ownPages)
            try images.flushToDisk()
            try Files.rename("inventory.img.tmp", to: "inventory.img", in: directory.number)
            try Syscall.call("fsync", SYS_fsync, Int(directory.number), on: .fd(directory.number))
        }
    }

    /// After a failure nothing of this dump stays. Names that were there before are left.
    func rollBack() {
        let now = (try? Files.names(in: ".", at: directory.number)) ?? []
        for name in now where !before.contains(name) && (name.hasSuffix(".img") || name.hasSuffix(".img.tmp") || name == "parent") {
            try? Files.unlink(name, at: directory.number)
        }
    }
}

extension Incremental {
    convenience init(_ request: Dump.Request, tracks: Bool) throws {
        try self.init(root: request.root, previous: request.settings.previousImages, tracks: tracks, run: RunID.make(), images: request.images, secrets: request.secrets, holder: request.trackers, request.log)
    }
}

/// The id of this run, as dump_criu_run_id has it: a random UUID (version 4).
package enum RunID {
    package static func make() -> String {
        var bytes = Random.bytes(16)
        bytes[6] = bytes[6] & 0x0f | 0x40
        bytes[8] = bytes[8] & 0x3f | 0x80
        let hex = bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        let parts = [0..<8, 8..<12, 12..<16, 16..<20, 20..<32]
        return parts.map { range in String(hex.dropFirst(range.lowerBound).prefix(range.count)) }.joined(separator: "-")
    }
}
