import Glibc
import Graft
import ImageMessages
import Images
import Kinds
import Linux
import Pages

/// A dump of the memory alone, of a tree that goes on: the parent of a later dump, which then saves only what changed since.
///
/// 1. freeze; for each process: which pages it has, which of them changed since the dump before; from here on writes are noticed;
/// 2. thaw, after some milliseconds;
/// 3. the pages are copied while the tree runs. A page that is written meanwhile may be torn in this image; it counts as changed, and the
///    next dump saves it again. A page that is gone meanwhile is left out, and what comes in its place counts as changed, too;
/// 4. the commit, as for a dump: the inventory comes last.
package enum PreDump {
    package static func run(_ request: Dump.Request) throws -> Dump.Result {
        try request.plugins.begin(.preDump, request.pluginSession)
        do {
            let result = try runWithPlugins(request)
            request.plugins.end(.done(treeRuns: true))
            return result
        } catch {
            request.plugins.end(.failed)
            throw error
        }
    }

    private static func runWithPlugins(_ request: Dump.Request) throws -> Dump.Result {
        let began = Clock.monotonic()
        try request.hook("pre-dump")
        let commit = try Commit(directory: request.images)
        let incremental: Incremental, tree: FrozenTree, server: PageServerClient?
        do {
            server = try request.pageServer.map { try PageServerClient($0) }
            incremental = try Incremental(request, tracks: true)
            tree = try Freeze.stop(request.root, request.settings, request.log)
        } catch {
            commit.rollBack()
            throw error
        }
        var result = Dump.Result(statistics: .zero)
        (result.processes, result.threads) = (tree.processes.count, tree.threadCount)
        result.statistics.freezingTime = UInt32(truncatingIfNeeded: (tree.stood - tree.began) / 1000)
        do {
            let found = try examine(tree, incremental, server, &result.statistics)
            let thawed = Clock.monotonic()
            result.statistics.frozenTime = UInt32(truncatingIfNeeded: (thawed - tree.began) / 1000)
            result.statistics.memdumpTime = UInt32(truncatingIfNeeded: (thawed - tree.stood) / 1000)
            let images = DumpImages(directory: request.images, compression: request.settings.compression)
            if let server {
                try send(found, to: server, incremental, request, &result.statistics)
                try server.finish()
            } else { try copy(found, images, incremental, request, &result.statistics) }
            result.statistics.memwriteTime = UInt32(truncatingIfNeeded: (Clock.monotonic() - thawed) / 1000)
            try commit.finish(images, inventory: inventory(incremental, request))
        } catch {
            commit.rollBack()
            tree.thaw()
            incremental.finish(succeeded: false)
            throw error
        }
        incremental.finish(succeeded: true)
        result.bytes = result.statistics.pagesWritten * 4096
        result.totalMicroseconds = (Clock.monotonic() - began) / 1000
        try Dump.writeStatistics(result.statistics, to: request.work)
        return result
    }

    private struct Found { let process: ThreadID, view: ThreadID, runs: PageRuns }

    /// The tree runs on afterwards.
    private static func examine(_ tree: FrozenTree, _ incremental: Incremental, _ server: PageServerClient?, _ statistics: inout DumpStatsEntry) throws -> [Found] {
        var found = [Found]()
        for process in tree.living {
            try CheckpointError.about("pre-dump", .task(process.id)) {
                let mappings = try Mapping.all(of: process.view, withFlags: true)
                try MemoryMap.refuseMissing(mappings, of: process.id)
                let entries = MemoryMap.trackable(mappings, scratch: nil)
                let scan = try PageScan(of: process.view)
                let own = try scan.ownPages(in: 0x1000..<AddressSpace.end)
                let unchanged = try incremental.unchanged(of: process.id, startTime: process.startTime, in: entries, scan, remote: try server?.hasParent(.task(UInt32(process.id.rawValue))))
                found.append(Found(process: process.id, view: process.view, runs: PageRuns(own: own, in: entries, unchanged: unchanged)))
                try follow(process, mappings, entries, scan, incremental)
                statistics.pagesScanned += entries.reduce(0) { $0 + $1.length / 4096 }
            }
        }
        tree.thaw()
        return found
    }

    /// Only a process that has no tracker yet enters a graft, for two calls.
    private static func follow(_ process: FrozenProcess, _ mappings: [Mapping], _ entries: [VmaEntry], _ scan: PageScan, _ incremental: Incremental) throws {
        var graft: ProcessGraft?
        try incremental.follow(process.id, startTime: process.startTime, in: entries, scan, used: try Proc.descriptors(of: process.view)) {
            let made = try ProcessGraft(in: process.view, mappings: mappings, virtualProcess: process.id.rawValue)
            graft = made
            return try made.enter(process.threads[0].task)
        }
        guard let graft else { return }
        try graft.remove()
        for thread in process.threads { try FrozenRegisters.prepareThaw(thread.task) }
    }

    /// The entries are written behind the pages: only what could be read is said to be there.
    private static func copy(_ found: [Found], _ images: DumpImages, _ incremental: Incremental, _ request: Dump.Request, _ statistics: inout DumpStatsEntry) throws {
        let buffer = PageBuffer()
        let total = found.reduce(0) { $0 + $1.runs.pages * 4096 }
        var done: UInt64 = 0
        for (index, part) in found.enumerated() {
            let pages = try images.pagesFile(UInt32(index + 1), pagemap: "pagemap-\(part.process).img")
            let copier = PageCopier(of: part.view, buffer)
            var entries = PageEntries(), offset: UInt64 = 0
            for run in part.runs.runs {
                guard run.flags & PageRuns.present != 0 else {
                    entries.add(run.range, run.flags)
                    statistics.pagesSkippedParent += UInt64(run.range.count) / 4096
                    continue
                }
                try copier.copy(run.range) { piece, content in
                    guard let content else { return incremental.forget(piece, of: part.process) }
                    try CheckpointError.about("write", .image(pages.name), remedy: "free space, or give another directory with -D") { try pages.append(content) }
                    entries.add(piece, run.flags)
                    offset += UInt64(piece.count)
                    done += UInt64(piece.count)
                    request.progress("memory of \(part.process)", done, total)
                }
            }
            try pages.isWhole()
            pages.entries = entries.entries
            statistics.pagesWritten += offset / 4096
        }
    }

    /// A page is announced when it has been read: one that is gone is left out.
    private static func send(_ found: [Found], to server: PageServerClient, _ incremental: Incremental, _ request: Dump.Request, _ statistics: inout DumpStatsEntry) throws {
        let buffer = PageBuffer()
        let total = found.reduce(0) { $0 + $1.runs.pages * 4096 }
        var done: UInt64 = 0
        for part in found {
            _ = try server.open(.task(UInt32(part.process.rawValue)))
            let copier = PageCopier(of: part.view, buffer)
            for run in part.runs.runs {
                guard run.flags & PageRuns.present != 0 else {
                    try server.add(run.range, flags: run.flags)
                    statistics.pagesSkippedParent += UInt64(run.range.count) / 4096
                    continue
                }
                try copier.copy(run.range) { piece, content in
                    guard let content else { return incremental.forget(piece, of: part.process) }
                    try server.add(piece, flags: run.flags)
                    try CheckpointError.about("send", .object("pages of task \(part.process)"), remedy: "see the page server's log") { try content.write(to: server.stream) }
                    done += UInt64(piece.count)
                    statistics.pagesWritten += UInt64(piece.count) / 4096
                    request.progress("memory of \(part.process)", done, total)
                }
            }
        }
    }

    private static func inventory(_ incremental: Incremental, _ request: Dump.Request) -> InventoryEntry {
        var entry = InventoryEntry()
        entry.imgVersion = 0
        entry.dumpUptime = Clock.boottime() / 1000
        entry.preDumpMode = request.settings.preDumpReads ? 2 : 1
        entry.pluginsEntry.plugins = request.plugins.used
        entry.dumpCriuRunID = incremental.run
        entry.stasis.checksums = true
        return entry
    }
}

/// Entries of a pagemap, adjacent ones of the same kind joined.
struct PageEntries {
    private(set) var entries: [PagemapEntry] = []
    mutating func add(_ range: Range<UInt64>, _ flags: UInt32) {
        let pages = UInt64(range.count) / 4096
        if let last = entries.last, last.flags == flags, last.vaddr + last.nrPages * 4096 == range.lowerBound {
            entries[entries.count - 1].nrPages += pages
            return
        }
        var entry = PagemapEntry()
        (entry.vaddr, entry.compatNrPages, entry.flags, entry.nrPages) = (range.lowerBound, 0, flags, pages)
        entries.append(entry)
    }
}
