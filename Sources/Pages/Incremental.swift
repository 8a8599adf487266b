import Glibc
package import Graft
package import ImageMessages
package import Images
package import Kinds
package import Linux

/// What a dump takes from the one before it, and leaves for the one after it.
package final class Incremental {
    /// The directory of --prev-images-dir and its parents.
    package let parent: PageChain?
    /// Names this dump (dump_criu_run_id).
    package let run: String
    /// --track-mem: pages written from now on are told from the others in the next dump.
    package let tracks: Bool
    private let parentRun: String
    private let root: ThreadID, log: Log
    private let softDirty: Bool
    private var trackers: [ThreadID: MemoryTracker] = [:]
    /// What the earlier directories have of each process with a tracker: looked up while the tree still runs.
    private var saved: [ThreadID: Result<[Range<UInt64>], any Error>] = [:]
    private let holder: TrackerHolder?

    /// - Parameters:
    ///   - previous: as given; relative to the image directory, in which it becomes the link `parent`.
    ///   - secrets: open the images of earlier dumps.
    ///   - holder: has the trackers between two dumps; nil: the keeper.
    package init(
        root: ThreadID, previous: String?, tracks: Bool, run: String, images: FileDescriptor, secrets: ImageSecrets = .none, holder: TrackerHolder? = nil, _ log: Log
    ) throws {
        (self.root, self.tracks, self.run, self.holder, self.log) = (root, tracks, run, holder, log)
        var chain: PageChain?, before = ""
        if let previous {
            let opened = try CheckpointError.about("use", .object("--prev-images-dir \(previous)"), remedy: "give the directory of an earlier dump, as seen from the directory of -D") {
                try FileDescriptor.open(previous, O_RDONLY | O_DIRECTORY, at: images.number)
            }
            try Self.link(previous, in: images)
            let parents = try PageChain(try ImageDirectory(opened, secrets))
            // Before the tree stands: what is in encrypted images must be known, or every page would be saved again.
            for directory in parents.directories where directory.isEncrypted {
                do { _ = try directory.sealForMore() } catch { throw CheckpointError("use", .object("--prev-images-dir \(previous)"), error.cause, remedy: error.remedy) }
            }
            chain = parents
            let inventory = try? parents.directories.first?.single("inventory.img", InventoryEntry.self)
            before = inventory?.dumpCriuRunID ?? ""
        }
        (parent, parentRun) = (chain, before)
        softDirty = (tracks || chain != nil) && KernelProbe.softDirty
        guard tracks || chain != nil else { return }
        for tracker in holder?.take() ?? TrackerKeeper.take(root: root, log) { trackers[tracker.process] = tracker }
        if chain != nil, before.isEmpty || !trackers.values.contains(where: { $0.since == before }) {
            log.warn("Memory was not tracked since \(previous ?? ""): every page is saved again")
        }
        for (process, tracker) in trackers where isFromParent(tracker) { saved[process] = Result { try pagesOfParent(process) } }
    }

    /// Whether it has followed the memory since the dump before this one.
    private func isFromParent(_ tracker: MemoryTracker) -> Bool { parent != nil && !parentRun.isEmpty && tracker.since == parentRun }

    /// Pages of a process that are in the directory of the dump before, or in its parents.
    private func pagesOfParent(_ process: ThreadID) throws -> [Range<UInt64>] {
        guard let parent, let newest = parent.directories.first, newest.exists(.pagemap, process.rawValue) else { return [] }
        var found = [Range<UInt64>]()
        for extent in try parent.extents(of: .pagemap, process.rawValue) where extent.source != .lazy {
            let end = extent.address + extent.pages * parent.pageSize
            if let last = found.last, last.upperBound == extent.address { found[found.count - 1] = last.lowerBound..<end } else { found.append(extent.address..<end) }
        }
        return found
    }

    /// The link `parent` of a directory, replacing an older one.
    package static func link(_ target: String, in images: FileDescriptor) throws {
        try CheckpointError.about("write", .image("parent")) {
            if (try? Files.link("parent", at: images.number)) != nil { try Files.unlink("parent", at: images.number) }
            try Files.makeSymbolicLink("parent", target: target, in: images.number)
        }
    }

    /// Pages of a stopped process that an earlier directory has as they are now.
    /// - Parameters:
    ///   - mappings: its mappings that can be tracked.
    ///   - isRemote: the pages of the earlier dump are with a page server, which has pages for this process; nil: they are here.
    package func unchanged(of process: ThreadID, startTime: UInt64, in mappings: [VmaEntry], _ scan: PageScan, remote: Bool?) throws -> [Range<UInt64>] {
        guard let tracker = trackers[process], tracker.startTime == startTime, isFromParent(tracker) else { return [] }
        let same: [Range<UInt64>]
        do throws(SyscallError) { same = try tracker.unchanged(mappings, scan) } catch {
            log.warn("task \(process): what changed can't be told, every page is saved: \(error)")
            return []
        }
        // With a page server nothing of the earlier pages is here; every page that was there and tracked was sent.
        if let remote { return remote ? same : [] }
        return MemoryTracker.common(same, try saved[process]?.get() ?? [])
    }

    /// Whether `follow` needs the process to be in a graft: it has no tracker yet.
    package func needsGraft(_ process: ThreadID, startTime: UInt64) -> Bool {
        tracks && (trackers[process].map { $0.startTime != startTime } ?? true)
    }

    /// From here on writes of a stopped process are noticed. A process that can't be followed is one whose pages are all saved
    /// again: no reason for a dump to fail.
    package func follow(_ process: ThreadID, startTime: UInt64, in mappings: [VmaEntry], _ scan: PageScan, used: [Int32], graft: () throws -> GraftedTask) throws {
        guard tracks else { return }
        if trackers[process]?.startTime != startTime { trackers[process] = nil }
        do {
            if let known = trackers[process], try known.begin(mappings, scan, run: run) { return }
            let tracker = try MemoryTracker.make(in: try graft(), startTime: startTime, used: used, softDirty: softDirty)
            trackers[process] = try tracker.begin(mappings, scan, run: run) ? tracker : nil
        } catch let error as SyscallError {
            trackers[process] = nil
            log.warn("task \(process): its memory can't be tracked, the next dump saves every page: \(error)")
        }
    }

    /// Pages that were to be saved and could not be read any more.
    package func forget(_ range: Range<UInt64>, of process: ThreadID) { trackers[process]?.forget(range) }

    /// Leaves the trackers to a keeper. After a dump that failed they are good only for the dump before it.
    /// - Parameter running: whether the tree lives on.
    package func finish(succeeded: Bool) {
        if !succeeded { for tracker in trackers.values where tracker.since == run { tracker.invalidate() } }
        let kept = trackers.values.filter { !$0.since.isEmpty }.sorted { $0.process < $1.process }
        trackers = [:]
        if let holder { return holder.give(kept) }
        do throws(SyscallError) { try TrackerKeeper.give(kept, root: root) } catch {
            log.warn("memory is not tracked any more, the next dump saves every page: \(error)")
        }
    }
}
@available(*, unavailable) extension Incremental: Sendable {}

/// Holds the memory trackers of a tree between dumps that one process makes; nothing is tracked any more when it goes.
package final class TrackerHolder {
    private var trackers: [MemoryTracker]
    /// Takes over from the keeper that earlier dumps may have left.
    package init(root: ThreadID, _ log: Log) { trackers = TrackerKeeper.take(root: root, log) }
    func take() -> [MemoryTracker] {
        defer { trackers = [] }
        return trackers
    }
    func give(_ trackers: [MemoryTracker]) { self.trackers = trackers }
}
@available(*, unavailable) extension TrackerHolder: Sendable {}
