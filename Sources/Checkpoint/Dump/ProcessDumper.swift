import CLinux
import Glibc
import Graft
import ImageMessages
import Images
import Kinds
import Linux
import Pages

/// Which processes share memory, descriptor table, file system context and signal handlers.
struct Sharing {
    var memory = SharingClasses(.memory), files = SharingClasses(.files)
    var fileSystem = SharingClasses(.fileSystem), signalHandlers = SharingClasses(.signalHandlers)
    /// Descriptor tables that are saved already.
    var savedTables: Set<UInt32> = []

    /// The ids of what the process shares; what can't be shared again is refused.
    mutating func fill(_ ids: inout TaskKobjIdsEntry, of id: ThreadID, _ context: DumpContext) throws {
        let memory = try memory.id(of: id), handlers = try signalHandlers.id(of: id)
        (ids.vmID, ids.filesID, ids.fsID, ids.sighandID) = (memory.id, try files.id(of: id).id, try fileSystem.id(of: id).id, handlers.id)
        if memory.first != id {
            try context.refuse(CheckpointError("dump", .task(id), "it shares its memory with task \(memory.first) (vfork or CLONE_VM)", remedy: "dump again when one of them has executed a program"))
        } else if handlers.first != id {
            try context.refuse(CheckpointError("dump", .task(id), "it shares its signal handlers with task \(handlers.first) (CLONE_SIGHAND)"))
        }
    }
}

/// Saves one stopped process: ids, descriptors, memory, state, threads.
final class ProcessDumper {
    private let process: FrozenProcess
    private let context: DumpContext
    private let collector: FileCollector
    private let namespaces: Namespaces
    private let cgroups: CgroupSets
    private let seccomp: SeccompCollector
    /// Told how many bytes of how many are written, on the way through the memory.
    var progress: (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }
    /// The dump before this one, and the one after.
    var incremental: Incremental?
    /// Pages that are in no image, because they can come later.
    private(set) var postponed: [Range<UInt64>] = []
    private var id: ThreadID { process.id }
    private var view: ThreadID { process.view }

    init(_ process: FrozenProcess, _ context: DumpContext, _ collector: FileCollector, namespaces: Namespaces, cgroups: CgroupSets, seccomp: SeccompCollector) {
        (self.process, self.context, self.collector, self.namespaces, self.cgroups, self.seccomp) = (process, context, collector, namespaces, cgroups, seccomp)
    }

    func dump(_ sharing: inout Sharing, parent: ThreadID?) throws {
        let log = context.log.about("task \(id)")
        let ids = try dumpIDs(&sharing, parent: parent)
        var mappings = try context.mappings.all(of: view)
        if try letOutOfOldGrafts(mappings) { mappings = try context.mappings.all(of: view) }
        log.info("\(mappings.count) mappings, \(process.threads.count) threads")
        let status = try Proc.status(view)
        let graft = try ProcessGraft(in: view, mappings: mappings, caught: status.hexadecimal("SigCgt") ?? 0, virtualProcess: id.rawValue)
        let first = process.threads[0]
        // All of them before the memory: a sleeping thread's is put as if it had not been woken.
        let registers = process.threads.map(\.registers)
        let frozen = registers[0]
        let grafted = try graft.enter(first.task, standing: (frozen.registers, frozen.signalMask))

        let numbers = try Proc.descriptors(of: view)
        if sharing.savedTables.insert(ids.filesID).inserted { try dumpDescriptors(numbers, table: ids.filesID, grafted) }

        var core = CoreEntry(), mm = MmEntry()
        core.mtype = .x8664
        var batch = grafted.batch()
        let processQuestions = try ProcessQuestions(&batch, process: view)
        let threadQuestions = ThreadQuestions(&batch, thread: first.id, status: status)
        try grafted.run(&batch)
        let answers = batch
        try processQuestions.fill(&core.tc, &mm, answers)
        try fillLeader(&core.tc, frozen)
        try fill(&core, first, frozen, threadQuestions, answers)
        if let ended = process.endedLeader {
            try context.images.write("core-\(first.id).img", [core.of(thread: frozen.signalMask)])
            core.becomeEndedLeader(ended)
        }

        try dumpMemory(mappings, &mm, grafted, graft, used: numbers, mayWrite: core.tc.rlimits.rlimits[1].cur)
        try context.images.write("core-\(id).img", [core])
        for (thread, frozen) in zip(process.threads, registers).dropFirst() {
            let grafted = try graft.enter(thread.task, standing: (frozen.registers, frozen.signalMask))
            try context.attempt {
                var batch = grafted.batch()
                let questions = ThreadQuestions(&batch, thread: thread.id, status: try Proc.status(thread.id, in: id))
                let rings = context.state(of: IOUringDump.self).hasRings(view) ? IOUringDump.askForRegisteredRings(&batch) : []
                try grafted.run(&batch)
                try IOUringDump.refuseRegisteredRings(rings, batch, thread.id)
                var core = CoreEntry()
                core.mtype = .x8664
                try fill(&core, thread, frozen, questions, batch)
                try context.images.write("core-\(thread.id).img", [core.of(thread: frozen.signalMask)])
            }
        }
        try graft.remove()
        try context.images.write("mm-\(id).img", [mm])
        try context.images.write("fs-\(id).img", [try FileSystemContext.dump(of: view, status: status, context)])
    }

    /// A thread that stands in a graft whose conductor was killed in this very moment is let run out of it: a matter of
    /// microseconds. True when there was one.
    private func letOutOfOldGrafts(_ mappings: [Mapping]) throws -> Bool {
        guard let place = ProcessGraft.usualPlace(in: mappings) else { return false }
        var found = false
        for thread in process.threads {
            var tries = 0
            while place.contains(try thread.task.registers().rip) {
                found = true
                tries += 1
                if tries > 1000 { throw CheckpointError("freeze", .task(thread.id), "it does not leave an old graft", remedy: "dump again") }
                try Foreground.holding { try letRunOn(thread) }
            }
        }
        return found
    }

    /// It runs for a moment and stands again, as at the freeze.
    private func letRunOn(_ thread: FrozenThread) throws {
        try thread.task.continue()
        usleep(100)
        let probe = SleepProbe(of: thread.id, in: id)
        try CheckpointError.about("freeze", .task(thread.id), remedy: "dump again") { try thread.task.stop() }
        try FrozenRegisters.prepareThaw(thread.task)
        thread.registers = try FrozenRegisters(thread.task, probe)
    }

    private func dumpIDs(_ sharing: inout Sharing, parent: ThreadID?) throws -> TaskKobjIdsEntry {
        var ids = namespaces.ids
        try sharing.fill(&ids, of: view, context)
        try context.images.write("ids-\(id).img", [ids])
        return ids
    }

    /// FD_CLOEXEC belongs to the number, not to the open file: the task is asked, a thousand numbers at a time.
    private func dumpDescriptors(_ numbers: [Int32], table: UInt32, _ grafted: GraftedTask) throws {
        var closeOnExec = Set<Int32>()
        var at = 0
        while at < numbers.count {
            var batch = grafted.batch()
            let part = numbers[at..<min(numbers.count, at + batch.room)]
            let calls = part.map { batch.call("fcntl(F_GETFD)", SYS_fcntl, .init($0), .init(F_GETFD)) }
            try grafted.run(&batch)
            for (number, call) in zip(part, calls) where batch.result(call) & 1 != 0 { closeOnExec.insert(number) }
            at += part.count
        }
        let entries = try collector.collect(numbers, of: view, closeOnExec: closeOnExec)
        try context.state(of: IOUringDump.self).save(of: view, entries, by: grafted, context)
        try context.images.write("fdinfo-\(table).img", entries)
    }

    private func fillLeader(_ tc: inout TaskCoreEntry, _ frozen: FrozenRegisters) throws {
        switch process.state {
        case .stopped(let signal): (tc.taskState, tc.stopSigno) = (3, UInt32(signal))
        default: tc.taskState = 1
        }
        tc.exitCode = 0
        tc.personality = 0
        tc.flags = UInt32(truncatingIfNeeded: process.stat.flags)
        tc.blkSigset = frozen.signalMask
        tc.comm = process.stat.comm
    }

    private func fill(_ core: inout CoreEntry, _ thread: FrozenThread, _ frozen: FrozenRegisters, _ questions: ThreadQuestions, _ answers: Batch) throws {
        var info = ThreadInfoX86(), state = ThreadCoreEntry()
        try frozen.fill(&info, &state)
        try questions.fill(&state, &info, answers)
        try seccomp.fill(&state, thread.task, of: view)
        if let set = try cgroups.id(of: thread.id, in: view) { state.cgSet = set }
        (core.threadInfo, core.threadCore) = (info, state)
    }

    private func dumpMemory(_ mappings: [Mapping], _ mm: inout MmEntry, _ grafted: GraftedTask, _ graft: ProcessGraft, used: [Int32], mayWrite fileSizeLimit: UInt64) throws {
        let began = Clock.monotonic()
        mm.exeFileID = try PathFiles.executableID(of: view, context: context)
        let stat = process.stat
        (mm.mmStartCode, mm.mmEndCode, mm.mmStartData, mm.mmEndData) = (stat.startCode, stat.endCode, stat.startData, stat.endData)
        (mm.mmStartStack, mm.mmStartBrk) = (stat.startStack, stat.startBreak)
        (mm.mmArgStart, mm.mmArgEnd, mm.mmEnvStart, mm.mmEnvEnd) = (stat.argStart, stat.argEnd, stat.envStart, stat.envEnd)
        mm.mmSavedAuxv = Array(try auxiliaryVector().prefix(44))
        mm.vmas = try MemoryMap.dump(mappings, of: view, scratch: graft.scratchRange, context)
        for mapping in mappings where mapping.name.hasPrefix("[anon:") || mapping.name.hasPrefix("[anon_shmem:") {
            var name = StasisVmaName()
            name.start = mapping.start
            name.name = String(mapping.name.dropFirst(mapping.name.hasPrefix("[anon:") ? 6 : 12).dropLast())
            mm.vmaNames.append(name)
        }
        mm.aios = mm.vmas.filter { $0.statusBits.contains(.aioRing) }.compactMap { AioRing.dump($0, of: view) }

        let scan = try PageScan(of: view, mappings, marks: incremental != nil)
        let own = try scan.ownPages()
        let trackable = MemoryMap.trackable(mappings, scratch: graft.scratchRange)
        let unchanged = try incremental?.unchanged(of: id, startTime: process.startTime, in: trackable, scan, remote: try askReceiver()) ?? []
        let runs = PageRuns(own: own, in: mm.vmas, unchanged: unchanged, postponed: context.settings.postponesPages)
        postponed = runs.runs.filter { $0.flags == PageRuns.lazy }.map(\.range)
        for range in scan.guardRanges {
            var entry = VmaEntry()
            (entry.start, entry.end, entry.pgoff, entry.shmid, entry.prot, entry.flags, entry.fd) = (range.lowerBound, range.upperBound, 0, 0, 0, 0, -1)
            entry.status = MappingStatus.guardRange.rawValue
            mm.vmas.append(entry)
        }
        let collected = Clock.monotonic()
        let source = PageSource(process: view, grafted: grafted, used: used, mayWrite: fileSizeLimit == UInt64.max, blanks: graft.ranges)
        if let copy = snapshot(graft) { try saveLater(runs, now: source, later: copy, notCopied: mappings.filter { !$0.isCopiedByFork }.map { $0.start..<$0.end }) } else { try save(runs, from: source) }
        try incremental?.follow(id, startTime: process.startTime, in: trackable, scan, used: used) { grafted }
        let ended = Clock.monotonic()
        context.statistics.memdumpTime += UInt32(truncatingIfNeeded: (collected - began) / 1000)
        context.statistics.memwriteTime += UInt32(truncatingIfNeeded: (ended - collected) / 1000)
        context.statistics.pagesScanned += mm.vmas.filter(\.isPrivate).reduce(0) { $0 + $1.length / 4096 }
        context.statistics.pagesWritten += runs.pages
        context.statistics.pagesSkippedParent += runs.count(of: PageRuns.parent)
        context.statistics.pagesLazy += postponed.reduce(0) { $0 + UInt64($1.count) / 4096 }
    }

    /// Whether a page server has pages of the process from the dump before. Where they are not sent at once it is opened later.
    private func askReceiver() throws -> Bool? {
        let subject = PageSubject.task(UInt32(id.rawValue))
        return try context.settings.snapshots ? context.receiver?.hasParent(subject) : context.receiver?.open(subject)
    }

    /// Whom the pages are taken from: the process itself, or its copy.
    private struct PageSource {
        let process: ThreadID, grafted: GraftedTask
        /// Its descriptors.
        let used: [Int32]
        /// Whether a limit of file sizes (RLIMIT_FSIZE) keeps it from writing its pages itself.
        let mayWrite: Bool
        /// Where our grafts stand there were zeros before: the image shows zeros.
        let blanks: [Range<UInt64>]
    }

    /// --snapshot: the process as it stands, in a copy that is written when the tree runs again. Nil where it is written at once.
    private func snapshot(_ graft: ProcessGraft) -> GraftedTask? {
        guard context.settings.snapshots, context.savesMemory else { return nil }
        // A helper that has just been born does not die with us yet.
        do { return try Foreground.holding { try graft.copyProcess() } } catch {
            context.log.warn("--snapshot: task \(id) stands until it is written: it can't be copied: \(error)")
            return nil
        }
    }

    private func saveLater(_ runs: PageRuns, now: PageSource, later copy: GraftedTask, notCopied: [Range<UInt64>]) throws {
        let later = PageSource(process: copy.task.id, grafted: copy, used: [], mayWrite: now.mayWrite, blanks: now.blanks)
        context.endCopies.append { copy.task.kill() }
        let (uncopied, copied) = runs.pieces.cut(at: notCopied)
        // Pages that pass through our buffers go in their order, all from one source.
        if context.receiver != nil || context.images.copiesPages, !uncopied.isEmpty {
            context.log.warn("--snapshot: task \(id) stands until it is written: it has memory that fork(2) does not copy")
            copy.task.kill()
            return try save(runs, from: now)
        }
        let pages = try openImage(runs)
        if let pages, !pages.isCopied { try write(uncopied, of: runs, to: pages, from: now) }
        context.background.append { [self] in
            let began = Clock.monotonic()
            try CheckpointError.about("dump", .task(id)) {
                if let pages, !pages.isCopied {
                    try write(copied, of: runs, to: pages, from: later)
                    try pages.isWhole(runs.pages * 4096)
                } else {
                    _ = try context.receiver?.open(.task(UInt32(id.rawValue)))
                    try copyOut(runs, from: later, to: pages)
                }
            }
            copy.task.kill()
            context.statistics.memwriteTime += UInt32(truncatingIfNeeded: (Clock.monotonic() - began) / 1000)
        }
    }

    private func save(_ runs: PageRuns, from source: PageSource) throws {
        if context.settings.snapshots { _ = try context.receiver?.open(.task(UInt32(id.rawValue))) }
        let pages = try openImage(runs)
        if let pages, !pages.isCopied {
            try write(runs.pieces, of: runs, to: pages, from: source)
            try pages.isWhole(runs.pages * 4096)
        } else { try copyOut(runs, from: source, to: pages) }
    }

    /// Nil where the pages go to a page server, or nowhere: then only the pagemap is written.
    private func openImage(_ runs: PageRuns) throws -> NewPagesFile? {
        if context.receiver != nil { return nil }
        let pagesID = context.newPagesID(), pagemap = "pagemap-\(id).img"
        guard context.savesMemory else {
            var head = PagemapHead()
            head.pagesID = pagesID
            try context.images.write(pagemap, [head] + runs.entries())
            return nil
        }
        let pages = try context.images.pagesFile(pagesID, pagemap: pagemap)
        pages.entries = runs.entries()
        return pages
    }

    /// Into the image directory, by the process or its copy itself.
    private func write(_ pieces: [PageRuns.Piece], of runs: PageRuns, to pages: NewPagesFile, from source: PageSource) throws {
        var lent: [Int32] = []
        if pieces.reduce(0, { $0 + $1.range.count }) > 16 * 4096, source.mayWrite { lent = (try? source.grafted.lend([pages.file], used: source.used)) ?? [] }
        var writer = PageWriter(pages, process: source.process)
        let total = UInt64(runs.pages) * 4096, isAll = pieces.count == runs.pieces.count
        writer.report = { [progress] beginning, all in
            progress(all, total)
            if isAll { pages.grew(to: beginning) }
        }
        let written = Result { try writer.write(pieces, by: source.grafted, lent: lent.first, areAll: isAll) }
        // Also when there was no room: the task goes on then.
        if !lent.isEmpty { try source.grafted.takeBack(lent) }
        let ours = try written.get()
        if ours > 0 { context.log.info("task \(id): \(ours) of \(total) bytes of pages were written beside the task") }
        for piece in pieces.cut(at: source.blanks).inside {
            try pages.file.write([UInt8](repeating: 0, count: piece.range.count), at: Int(piece.offset))
            pages.changed(piece.offset..<(piece.offset + UInt64(piece.range.count)))
        }
    }

    /// Through our buffer: compressed, encrypted, past the page cache, or to a page server.
    private func copyOut(_ runs: PageRuns, from source: PageSource, to pages: NewPagesFile?) throws {
        let target: any PageTarget
        if let pages { target = PagesFileTarget(pages) } else if let receiver = context.receiver { target = PageServerTarget(receiver) } else { return }
        var copier = PageCopier(of: source.process, .forCopies(context.settings))
        copier.blanks = source.blanks
        let total = runs.pages * 4096
        _ = try runs.copy(by: copier, to: target, gone: { throw CheckpointError("dump", .mapping($0, name: "", of: id), "this page can't be read") }) { progress($0, total) }
    }

    private func auxiliaryVector() throws -> [UInt64] {
        let bytes = try Files.read("/proc/\(view)/auxv")
        return bytes.words(in: 0..<(bytes.count & ~7))
    }
}

private extension CoreEntry {
    /// The core of a thread that does not lead: without what belongs to its process.
    func of(thread mask: UInt64) -> CoreEntry {
        var core = self
        core.clearTc()
        core.threadCore.blkSigset = mask
        return core
    }
    /// Without registers, so that nothing takes it for a thread to be run.
    mutating func becomeEndedLeader(_ stat: TaskStat) {
        clearThreadInfo()
        (tc.comm, tc.stasis.leaderStatus) = (stat.comm, UInt32(bitPattern: stat.exitCode))
        (tc.blkSigset, threadCore.comm) = (0, stat.comm)
        threadCore.clearSignalsP()
        threadCore.clearSas()
        (threadCore.futexRla, threadCore.futexRlaLen) = (0, 0)
        threadCore.clearRseqEntry()
        threadCore.clearPdeathSig()
        threadCore.clearSeccompMode()
        threadCore.clearSeccompFilter()
    }
}

private extension Mapping {
    /// Whether a copy of the process has its pages (madvise(2)). Huge pages it may lose to the process when they are scarce (mm/hugetlb.c, unmap_ref_private).
    var isCopiedByFork: Bool { !shared && flags.isDisjoint(with: [.dontFork, .wipeOnFork, .hugetlb, .io, .pureFrameNumbers]) && !name.hasPrefix("/[aio]") }
}
