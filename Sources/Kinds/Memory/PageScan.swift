import CLinux
import Glibc
package import Linux

/// Which pages of a stopped process hold something of its own: private pages that are anonymous or were copied on write, present or
/// swapped out, but for the zero page. One walk over its page tables finds all that is asked for.
package struct PageScan {
    private let pagemap: FileDescriptor
    private let process: ThreadID
    /// Big memory without a file, ascending. Its pages are nobody else's: looking at each one's owner takes six times as long as the walk.
    private let anonymous: [Range<UInt64>]
    private typealias Region = (range: Range<UInt64>, categories: UInt64)
    /// Own pages and guard ranges; nil where the kernel has no scan (before 6.7).
    private let found: [Region]?

    private static let fileOrZero = UInt64(CLINUX_PAGE_IS_FILE | CLINUX_PAGE_IS_PFNZERO), zero = UInt64(CLINUX_PAGE_IS_PFNZERO)
    private static let there = UInt64(CLINUX_PAGE_IS_PRESENT | CLINUX_PAGE_IS_SWAPPED)
    private static let swapped = UInt64(CLINUX_PAGE_IS_SWAPPED), written = UInt64(CLINUX_PAGE_IS_WRITTEN), softDirty = UInt64(CLINUX_PAGE_IS_SOFT_DIRTY)
    private static let guarded = UInt64(CLINUX_PAGE_IS_GUARD), mayBeProtected = UInt64(CLINUX_PAGE_IS_WPALLOWED)
    private static let all: Range<UInt64> = 0x1000..<AddressSpace.end
    /// Bytes for which a scan of its own pays.
    private static let big: UInt64 = 1 << 20

    /// - Parameters:
    ///   - mappings: all of the process's, ascending.
    ///   - marks: whether `unwrittenPages` will be asked for.
    package init(of process: ThreadID, _ mappings: [Mapping], marks: Bool) throws(SyscallError) {
        self.process = process
        pagemap = try FileDescriptor.open("/proc/\(process)/pagemap", O_RDONLY)
        var anonymous = [Range<UInt64>]()
        for mapping in mappings where mapping.isPlain {
            if let last = anonymous.last, last.upperBound == mapping.start { anonymous[anonymous.count - 1] = last.lowerBound..<mapping.end }
            else { anonymous.append(mapping.start..<mapping.end) }
        }
        self.anonymous = anonymous.filter { $0.count >= Self.big }
        found = try Self.walk(self.anonymous, telling: marks ? Self.swapped | Self.written | Self.softDirty | Self.mayBeProtected : 0, pagemap, process)
    }

    /// Guard ranges look swapped out; kernels before 6.15 know neither them nor the category.
    private static func walk(_ anonymous: [Range<UInt64>], telling: UInt64, _ pagemap: FileDescriptor, _ process: ThreadID) throws(SyscallError) -> [Region]? {
        for telling in [telling | guarded, telling] {
            do throws(SyscallError) {
                var found = [Region](), at = all.lowerBound
                for range in anonymous {
                    found += try regions(at..<range.lowerBound, without: fileOrZero, telling, pagemap, process)
                    found += try regions(range, without: zero, telling, pagemap, process)
                    at = range.upperBound
                }
                return found + (try regions(at..<all.upperBound, without: fileOrZero, telling, pagemap, process))
            } catch {
                if error.errno == Errno(ENOTTY) { return nil }
                guard error.errno == Errno(EINVAL), telling & guarded != 0 else { throw error }
            }
        }
        return nil
    }

    /// Runs of own pages, in bytes, ascending.
    package func ownPages() throws(SyscallError) -> [Range<UInt64>] {
        guard let found else { return try readPagemap() }
        return Self.joined(found.lazy.filter { $0.categories & Self.guarded == 0 }.map(\.range))
    }

    /// Ranges under madvise(MADV_GUARD_INSTALL), Linux 6.15; none where the kernel can't tell.
    package var guardRanges: [Range<UInt64>] { Self.joined((found ?? []).lazy.filter { $0.categories & Self.guarded != 0 }.map(\.range)) }

    package enum Mark: Sendable { case softDirty, writeProtection }

    /// Own pages that still bear the mark of not being written: soft-dirty is clear, or write protection (of whomsoever) is in place.
    /// - Parameter anonymous: mappings without a file, ascending. In others a page that was thrown away while it was protected leaves a
    ///   marker (mm/memory.c, zap_install_uffd_wp_if_needed), which looks like a protected page on swap: it is none.
    package func unwrittenPages(by mark: Mark, anonymous: [Range<UInt64>]) throws(SyscallError) -> [Range<UInt64>] {
        guard let found else { return mark == .softDirty ? try readPagemap(onlyClean: true) : [] }
        let own = found.lazy.filter { $0.categories & Self.guarded == 0 }
        if mark == .softDirty { return Self.joined(own.filter { $0.categories & Self.softDirty == 0 }.map(\.range)) }
        var runs = [Range<UInt64>](), at = 0
        for (range, categories) in own where categories & Self.written == 0 && categories & Self.mayBeProtected != 0 {
            if categories & Self.swapped == 0 { runs.append(range); continue }
            while at < anonymous.count, anonymous[at].upperBound <= range.lowerBound { at += 1 }
            var index = at
            while index < anonymous.count, anonymous[index].lowerBound < range.upperBound {
                runs.append(anonymous[index].clamped(to: range))
                index += 1
            }
        }
        return Self.joined(runs)
    }

    /// Write-protects the own pages of a range that is registered with a userfaultfd for that, as far as they are not protected.
    package func protect(_ range: Range<UInt64>) throws(SyscallError) {
        let without = anonymous.contains { $0.lowerBound <= range.lowerBound && range.upperBound <= $0.upperBound } ? Self.zero : Self.fileOrZero
        for inverted in [without | Self.guarded, without] {
            do throws(SyscallError) {
                _ = try Self.regions(range, without: inverted, all: Self.written, flags: 1 /* PM_SCAN_WP_MATCHING */, 0, pagemap, process)
                return
            } catch { guard error.errno == Errno(EINVAL), inverted != without else { throw error } }
        }
    }

    /// Pages of these ranges, ascending, that are there in any way, also those of zeros.
    package static func present(in ranges: [Range<UInt64>], of process: ThreadID) throws(SyscallError) -> [Range<UInt64>] {
        let pagemap = try FileDescriptor.open("/proc/\(process)/pagemap", O_RDONLY)
        var found = [Range<UInt64>]()
        do throws(SyscallError) {
            for range in ranges { found += try regions(range, without: 0, 0, pagemap, process).map(\.range) }
        } catch {
            guard error.errno == Errno(ENOTTY) else { throw error }
            found = []
            for range in ranges { found += try read(pagemap, range) { !$0.isDisjoint(with: [.present, .swapped]) } }
        }
        return joined(found)
    }

    private static func joined(_ ranges: some Sequence<Range<UInt64>>) -> [Range<UInt64>] {
        var runs = [Range<UInt64>]()
        for range in ranges {
            if let last = runs.last, last.upperBound == range.lowerBound { runs[runs.count - 1] = last.lowerBound..<range.upperBound } else { runs.append(range) }
        }
        return runs
    }

    /// ioctl(PAGEMAP_SCAN), Documentation/admin-guide/mm/pagemap.rst: pages that are there, present or swapped out.
    /// - Parameters:
    ///   - inverted: what they must not be.
    ///   - all: what they must be besides.
    ///   - telling: the categories that are told of each region; regions differ in them.
    private static func regions(
        _ range: Range<UInt64>, without inverted: UInt64, all: UInt64 = 0, flags: UInt64 = 0, _ telling: UInt64, _ pagemap: FileDescriptor, _ process: ThreadID
    ) throws(SyscallError) -> [Region] {
        var runs = [Region]()
        if range.isEmpty { return runs }
        var request = clinux_pm_scan_arg()
        request.size = UInt64(MemoryLayout<clinux_pm_scan_arg>.size)
        (request.start, request.end, request.flags) = (range.lowerBound, range.upperBound, flags)
        request.return_mask = telling
        (request.category_inverted, request.category_mask, request.category_anyof_mask) = (inverted, inverted | all, there)
        // Between two big mappings there is little.
        var regions = [clinux_page_region](repeating: clinux_page_region(), count: 64)
        while request.start < range.upperBound {
            let found = try pagemap.scanPages(&request, into: &regions, of: process)
            for region in regions[..<found] {
                // A full vector may end with walk_end before regions that were given already (seen on 6.18): they come twice.
                let from = max(region.start, runs.last?.range.upperBound ?? 0)
                if from >= region.end { continue }
                if let last = runs.last, last.range.upperBound == from, last.categories == region.categories { runs[runs.count - 1].range = last.range.lowerBound..<region.end }
                else { runs.append((from..<region.end, region.categories)) }
            }
            if request.walk_end <= request.start { break }
            request.start = request.walk_end
            if regions.count == 64, request.start < range.upperBound { regions = [clinux_page_region](repeating: clinux_page_region(), count: 2048) }
        }
        return runs
    }

    /// Kernels before 6.7, which have no scan: mapping by mapping, for between them lie terabytes.
    private func readPagemap(onlyClean: Bool = false) throws(SyscallError) -> [Range<UInt64>] {
        var runs = [Range<UInt64>]()
        for mapping in try Mapping.all(of: process, withFlags: false) where mapping.start < Self.all.upperBound {
            runs += try Self.read(pagemap, mapping.start..<mapping.end) { $0.isOwn && (!onlyClean || !$0.contains(.softDirty)) }
        }
        return Self.joined(runs)
    }

    /// Runs of the pages in a range of whose words this is true.
    private static func read(_ pagemap: FileDescriptor, _ range: Range<UInt64>, _ isWanted: (PagemapWord) -> Bool) throws(SyscallError) -> [Range<UInt64>] {
        var runs = [Range<UInt64>]()
        for page in stride(from: range.lowerBound, to: range.upperBound, by: 65536 * 4096) {
            let count = Int(min(range.upperBound - page, 65536 * 4096) / 4096)
            let words = try pagemap.read(count * 8, at: Int(page / 4096 * 8))
            for index in 0..<(words.count / 8) where isWanted(PagemapWord(rawValue: words.word(at: index * 8))) {
                let start = page + UInt64(index) * 4096
                if let run = runs.last, run.upperBound == start { runs[runs.count - 1] = run.lowerBound..<(start + 4096) } else { runs.append(start..<(start + 4096)) }
            }
        }
        return runs
    }
}
