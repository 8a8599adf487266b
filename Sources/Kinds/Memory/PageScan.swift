import CLinux
import Glibc
package import Linux

/// Which pages of a process hold something of its own: private pages that are anonymous or were copied on write, present or
/// swapped out, but for the zero page.
package struct PageScan {
    private let pagemap: FileDescriptor
    private let process: ThreadID

    package init(of process: ThreadID) throws(SyscallError) {
        self.process = process
        pagemap = try FileDescriptor.open("/proc/\(process)/pagemap", O_RDONLY)
    }

    /// Runs of such pages, in bytes, ascending, within `range`.
    package func ownPages(in range: Range<UInt64>) throws(SyscallError) -> [Range<UInt64>] {
        let none = UInt64(CLINUX_PAGE_IS_FILE | CLINUX_PAGE_IS_PFNZERO), any = UInt64(CLINUX_PAGE_IS_PRESENT | CLINUX_PAGE_IS_SWAPPED)
        // Guard ranges look swapped out; kernels before 6.15 know neither them nor the category.
        for inverted in [none | UInt64(CLINUX_PAGE_IS_GUARD), none] {
            do throws(SyscallError) { return try scan(range, inverted: inverted, all: inverted, any: any) }
            catch { guard error.errno == Errno(ENOTTY) || error.errno == Errno(EINVAL) else { throw error } }
        }
        return try readPagemap(range)
    }

    package enum Mark: Sendable { case softDirty, writeProtection }

    /// Own pages that still bear the mark of not being written: soft-dirty is clear, or write protection (of whomsoever) is in place.
    /// - Parameter anonymous: mappings without a file, ascending. In others a page that was thrown away while it was protected leaves a
    ///   marker (mm/memory.c, zap_install_uffd_wp_if_needed), which looks like a protected page on swap: it is none.
    package func unwrittenPages(in range: Range<UInt64>, by mark: Mark, anonymous: [Range<UInt64>]) throws(SyscallError) -> [Range<UInt64>] {
        let none = UInt64(CLINUX_PAGE_IS_FILE | CLINUX_PAGE_IS_PFNZERO), any = UInt64(CLINUX_PAGE_IS_PRESENT | CLINUX_PAGE_IS_SWAPPED)
        let written = UInt64(mark == .softDirty ? CLINUX_PAGE_IS_SOFT_DIRTY : CLINUX_PAGE_IS_WRITTEN)
        let allowed = mark == .softDirty ? 0 : UInt64(CLINUX_PAGE_IS_WPALLOWED)
        for inverted in [none | written | UInt64(CLINUX_PAGE_IS_GUARD), none | written] {
            do throws(SyscallError) {
                let onSwap = UInt64(CLINUX_PAGE_IS_SWAPPED)
                let found = try regions(range, inverted: inverted, all: inverted | allowed, any: any, telling: onSwap)
                if mark == .softDirty { return found.map(\.range) }
                var runs = [Range<UInt64>](), at = 0
                for (range, categories) in found {
                    if categories & onSwap == 0 { runs.append(range); continue }
                    while at < anonymous.count, anonymous[at].upperBound <= range.lowerBound { at += 1 }
                    var index = at
                    while index < anonymous.count, anonymous[index].lowerBound < range.upperBound {
                        runs.append(anonymous[index].clamped(to: range))
                        index += 1
                    }
                }
                return runs
            } catch { guard error.errno == Errno(ENOTTY) || error.errno == Errno(EINVAL) else { throw error } }
        }
        return mark == .softDirty ? try readPagemap(range, onlyClean: true) : []
    }

    /// Write-protects the own pages of a range that is registered with a userfaultfd for that, as far as they are not protected.
    package func protect(_ range: Range<UInt64>) throws(SyscallError) {
        let none = UInt64(CLINUX_PAGE_IS_FILE | CLINUX_PAGE_IS_PFNZERO), any = UInt64(CLINUX_PAGE_IS_PRESENT | CLINUX_PAGE_IS_SWAPPED)
        for inverted in [none | UInt64(CLINUX_PAGE_IS_GUARD), none] {
            do throws(SyscallError) {
                _ = try scan(range, inverted: inverted, all: inverted | UInt64(CLINUX_PAGE_IS_WRITTEN), any: any, flags: 1 /* PM_SCAN_WP_MATCHING */)
                return
            } catch { guard error.errno == Errno(EINVAL), inverted != none else { throw error } }
        }
    }

    /// Ranges under madvise(MADV_GUARD_INSTALL), Linux 6.15; none where the kernel can't tell.
    package func guardRanges(in range: Range<UInt64>) throws(SyscallError) -> [Range<UInt64>] {
        let category = UInt64(CLINUX_PAGE_IS_GUARD)
        do throws(SyscallError) { return try scan(range, inverted: 0, all: category, any: 0) }
        catch {
            guard error.errno == Errno(ENOTTY) || error.errno == Errno(EINVAL) else { throw error }
            return []
        }
    }

    private func scan(_ range: Range<UInt64>, inverted: UInt64, all: UInt64, any: UInt64, flags: UInt64 = 0) throws(SyscallError) -> [Range<UInt64>] {
        try regions(range, inverted: inverted, all: all, any: any, flags: flags).map(\.range)
    }

    /// ioctl(PAGEMAP_SCAN), Documentation/admin-guide/mm/pagemap.rst.
    /// - Parameter categories: of each region, as far as `telling` asks for them.
    private func regions(
        _ range: Range<UInt64>, inverted: UInt64, all: UInt64, any: UInt64, telling: UInt64 = 0, flags: UInt64 = 0
    ) throws(SyscallError) -> [(range: Range<UInt64>, categories: UInt64)] {
        var runs = [(range: Range<UInt64>, categories: UInt64)]()
        var regions = [clinux_page_region](repeating: clinux_page_region(), count: 2048)
        var start = range.lowerBound
        while start < range.upperBound {
            var request = clinux_pm_scan_arg()
            request.size = UInt64(MemoryLayout<clinux_pm_scan_arg>.size)
            (request.start, request.end, request.flags) = (start, range.upperBound, flags)
            request.return_mask = telling
            (request.category_inverted, request.category_mask, request.category_anyof_mask) = (inverted, all, any)
            let number = pagemap.number
            let capacity = regions.count
            let found: Int = unsafe regions.withUnsafeMutableBufferPointer { buffer in
                request.vec = UInt64(UInt(bitPattern: buffer.baseAddress))
                request.vec_len = UInt64(capacity)
                return unsafe withUnsafeMutablePointer(to: &request) { unsafe Syscall.raw(SYS_ioctl, Int(number), Int(CLINUX_PAGEMAP_SCAN), Int(bitPattern: $0)) }
            }
            if found < 0 { throw SyscallError("ioctl(PAGEMAP_SCAN)", .task(process), Int32(-found)) }
            for region in regions[..<found] {
                // A full vector may end with walk_end before regions that were given already (seen on 6.18): they come twice.
                let from = max(region.start, runs.last?.range.upperBound ?? 0)
                if from >= region.end { continue }
                if let last = runs.last, last.range.upperBound == from, last.categories == region.categories { runs[runs.count - 1].range = last.range.lowerBound..<region.end }
                else { runs.append((from..<region.end, region.categories)) }
            }
            if request.walk_end <= start { break }
            start = request.walk_end
        }
        return runs
    }

    /// Kernels before 6.7, which have no scan: mapping by mapping, for between them lie terabytes.
    private func readPagemap(_ range: Range<UInt64>, onlyClean: Bool = false) throws(SyscallError) -> [Range<UInt64>] {
        var runs = [Range<UInt64>]()
        for mapping in try Mapping.all(of: process, withFlags: false) where mapping.start < range.upperBound && range.lowerBound < mapping.end {
            let part = (mapping.start..<mapping.end).clamped(to: range)
            for page in stride(from: part.lowerBound, to: part.upperBound, by: 65536 * 4096) {
                let count = Int(min(part.upperBound - page, 65536 * 4096) / 4096)
                let words = try pagemap.read(count * 8, at: Int(page / 4096 * 8))
                for index in 0..<(words.count / 8) {
                    let word = PagemapWord(rawValue: words.word(at: index * 8))
                    guard word.isOwn, !onlyClean || !word.contains(.softDirty) else { continue }
                    let start = page + UInt64(index) * 4096
                    if let run = runs.last, run.upperBound == start { runs[runs.count - 1] = run.lowerBound..<(start + 4096) } else { runs.append(start..<(start + 4096)) }
                }
            }
        }
        return runs
    }
}
