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
        let incremental: Incremental, tree: FrozenTree, server: PageServerClient?, seal: ImageSeal?, reader: MappingReader
        do {
            seal = try request.seal()
            server = try request.pageServer.map { try PageServerClient($0) }
            incremental = try Incremental(request, tracks: true)
            reader = MappingReader(tree: request.root)
            tree = try Freeze.stop(request.root, request.settings, request.log)
        } catch {
            commit.rollBack()
            throw error
        }
        var result = Dump.Result(statistics: .zero)
        (result.processes, result.threads) = (tree.processes.count, tree.threadCount)
        result.statistics.freezingTime = UInt32(truncatingIfNeeded: (tree.stood - tree.began) / 1000)
        do {
            let found = try examine(tree, reader, incremental, server, &result.statistics)
            let thawed = Clock.monotonic()
            result.statistics.frozenTime = UInt32(truncatingIfNeeded: (thawed - tree.began) / 1000)
            result.statistics.memdumpTime = UInt32(truncatingIfNeeded: (thawed - tree.stood) / 1000)
            let images = DumpImages(directory: request.images, compression: request.settings.compression, seal: seal, directly: request.settings.directIO)
            try copy(found, images, server, incremental, request, &result.statistics)
            try server?.finish()
            result.statistics.memwriteTime = UInt32(truncatingIfNeeded: (Clock.monotonic() - thawed) / 1000)
            try commit.finish(images, inventory: inventory(incremental, request), ownPages: server == nil)
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
    private static func examine(_ tree: FrozenTree, _ reader: MappingReader, _ incremental: Incremental, _ server: PageServerClient?, _ statistics: inout DumpStatsEntry) throws -> [Found] {
        var found = [Found]()
        for process in tree.living {
            try CheckpointError.about("pre-dump", .task(process.id)) {
                let mappings = try reader.all(of: process.view)
                try MemoryMap.refuseMissing(mappings, of: process.id)
                let entries = MemoryMap.trackable(mappings, scratch: nil)
                let scan = try PageScan(of: process.view, mappings, marks: true)
                let own = try scan.ownPages()
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

    private static func copy(_ found: [Found], _ images: DumpImages, _ server: PageServerClient?, _ incremental: Incremental, _ request: Dump.Request, _ statistics: inout DumpStatsEntry) throws {
        let buffer = PageBuffer.forCopies(request.settings)
        let total = found.reduce(0) { $0 + $1.runs.pages * 4096 }
        var done: UInt64 = 0
        for (index, part) in found.enumerated() {
            let target: any PageTarget
            if let server {
                _ = try server.open(.task(UInt32(part.process.rawValue)))
                target = PageServerTarget(server)
            } else { target = PagesFileTarget(try images.pagesFile(UInt32(index + 1), pagemap: "pagemap-\(part.process).img")) }
            let copied = try part.runs.copy(by: PageCopier(of: part.view, buffer), to: target, gone: { incremental.forget($0, of: part.process) }) { [done] in
                request.progress("memory of \(part.process)", done + $0, total)
            }
            done += copied
            statistics.pagesWritten += copied / 4096
            statistics.pagesSkippedParent += part.runs.count(of: PageRuns.parent)
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
