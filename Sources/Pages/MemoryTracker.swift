import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Kinds
package import Linux

/// Follows which pages of one process are written after a moment, for the next dump to leave the others out. Where the kernel has
/// soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst) it uses them; elsewhere pages are write-protected through a
/// userfaultfd whose faults the kernel resolves by itself (UFFD_FEATURE_WP_ASYNC, Linux 6.7), and PAGEMAP_SCAN tells which are still
/// protected. That lasts for as long as somebody holds the descriptor: `TrackerKeeper`.
///
/// Whatever is not known for certain counts as written: memory that was mapped or moved later, another program's registrations,
/// a process that has executed another program, a lost descriptor.
package final class MemoryTracker {
    package enum Means: Sendable { case softDirty, writeProtection(Userfault) }
    package let process: ThreadID
    /// In clock ticks since boot, as in /proc/PID/stat: a process with the same id and another start is another process.
    package let startTime: UInt64
    /// The run (dump_criu_run_id) whose images hold the pages as they were when they were last protected; empty: none.
    package private(set) var since: String
    package private(set) var means: Means

    package init(process: ThreadID, startTime: UInt64, since: String, means: Means) {
        (self.process, self.startTime, self.since, self.means) = (process, startTime, since, means)
    }

    /// Begins to follow a stopped process. What is in memory now counts as written until `begin`.
    package static func make(in grafted: GraftedTask, startTime: UInt64, used: [Int32], softDirty: Bool) throws(SyscallError) -> MemoryTracker {
        if softDirty { return MemoryTracker(process: grafted.process, startTime: startTime, since: "", means: .softDirty) }
        let fault = try Userfault.make(
            in: grafted, used: used, userModeOnly: true, features: [.protectsHugeAndShared, .protectsUnpopulated, .protectsAsynchronously])
        return MemoryTracker(process: grafted.process, startTime: startTime, since: "", means: .writeProtection(fault))
    }

    /// Own pages within `mappings` (ascending) that were not written since `begin`. The process stands still.
    package func unchanged(_ mappings: [VmaEntry], _ scan: PageScan) throws(SyscallError) -> [Range<UInt64>] {
        let ranges = mappings.map { $0.start..<$0.end }
        let anonymous = mappings.filter { $0.statusBits.contains(.anonymousPrivate) }.map { $0.start..<$0.end }
        switch means {
        case .softDirty: return Self.common(try scan.unwrittenPages(by: .softDirty, anonymous: anonymous), ranges)
        case .writeProtection(let fault):
            let unwritten = try scan.unwrittenPages(by: .writeProtection, anonymous: anonymous)
            // Pages that somebody else protects, for purposes of his own, say nothing to us: he does not share the registration.
            return Self.common(unwritten, register(ranges, fault))
        }
    }

    /// From here on writes count. The process stands still.
    /// - Parameter run: the dump that saves the pages as they are now.
    /// - Returns: false when the descriptor is of another address space: the process has executed a program.
    package func begin(_ mappings: [VmaEntry], _ scan: PageScan, run: String) throws(SyscallError) -> Bool {
        since = ""
        switch means {
        case .softDirty: try Files.write("4", to: "/proc/\(process)/clear_refs")
        case .writeProtection(let fault):
            let ranges = mappings.map { $0.start..<$0.end }
            let ours = register(ranges, fault)
            if ours.isEmpty, !ranges.isEmpty { return false }
            for range in ours { try scan.protect(range) }
        }
        since = run
        return true
    }

    /// These pages are in no image after all.
    package func forget(_ range: Range<UInt64>) {
        switch means {
        case .softDirty: since = ""
        case .writeProtection(let fault):
            do throws(SyscallError) { try fault.unprotect(range) } catch {
                // Unmapped in the meantime is as good; anything else leaves pages that would wrongly count as saved.
                if error.errno != Errno(ENOENT) { since = "" }
            }
        }
    }
    /// The images of the last `begin` are not to be.
    package func invalidate() { since = "" }

    /// Those of `ranges` that are registered with us now, joined where they touch.
    private func register(_ ranges: [Range<UInt64>], _ fault: Userfault) -> [Range<UInt64>] {
        var joined = [Range<UInt64>]()
        for range in ranges {
            if let last = joined.last, last.upperBound == range.lowerBound { joined[joined.count - 1] = last.lowerBound..<range.upperBound } else { joined.append(range) }
        }
        var ours = [Range<UInt64>]()
        for range in joined {
            if (try? fault.register(range, .writeProtected)) != nil { ours.append(range); continue }
            for part in ranges where range.contains(part.lowerBound) && part != range {
                if (try? fault.register(part, .writeProtected)) != nil { ours.append(part) }
            }
        }
        return ours
    }

    /// What both lists, ascending, have.
    package static func common(_ some: [Range<UInt64>], _ others: [Range<UInt64>]) -> [Range<UInt64>] {
        guard let first = some.first?.lowerBound else { return [] }
        var found = [Range<UInt64>]()
        var i = 0, j = 0, end = others.count
        // A few of them are looked up among a hundred thousand.
        while j < end {
            let middle = (j + end) / 2
            if others[middle].upperBound <= first { j = middle + 1 } else { end = middle }
        }
        while i < some.count, j < others.count {
            let part = max(some[i].lowerBound, others[j].lowerBound)..<max(max(some[i].lowerBound, others[j].lowerBound), min(some[i].upperBound, others[j].upperBound))
            if !part.isEmpty { found.append(part) }
            if some[i].upperBound < others[j].upperBound { i += 1 } else { j += 1 }
        }
        return found
    }
}
@available(*, unavailable) extension MemoryTracker: Sendable {}
