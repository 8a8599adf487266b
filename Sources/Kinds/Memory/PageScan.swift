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

    /// Ranges under madvise(MADV_GUARD_INSTALL), Linux 6.15; none where the kernel can't tell.
    package func guardRanges(in range: Range<UInt64>) throws(SyscallError) -> [Range<UInt64>] {
        let category = UInt64(CLINUX_PAGE_IS_GUARD)
        do throws(SyscallError) { return try scan(range, inverted: 0, all: category, any: 0) }
        catch {
            guard error.errno == Errno(ENOTTY) || error.errno == Errno(EINVAL) else { throw error }
            return []
        }
    }

    /// ioctl(PAGEMAP_SCAN), Documentation/admin-guide/mm/pagemap.rst.
    private func scan(_ range: Range<UInt64>, inverted: UInt64, all: UInt64, any: UInt64) throws(SyscallError) -> [Range<UInt64>] {
        var runs = [Range<UInt64>]()
        var regions = [clinux_page_region](repeating: clinux_page_region(), count: 2048)
        var start = range.lowerBound
        while start < range.upperBound {
            var request = clinux_pm_scan_arg()
            request.size = UInt64(MemoryLayout<clinux_pm_scan_arg>.size)
            (request.start, request.end) = (start, range.upperBound)
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
                let from = max(region.start, runs.last?.upperBound ?? 0)
                if from >= region.end { continue }
                if let last = runs.last, last.upperBound == from { runs[runs.count - 1] = last.lowerBound..<region.end }
                else { runs.append(from..<region.end) }
            }
            if request.walk_end <= start { break }
            start = request.walk_end
        }
        return runs
    }

    /// One 64-bit word a page: bit 63 present, 62 swapped, 61 of a file or shared.
    private func readPagemap(_ range: Range<UInt64>) throws(SyscallError) -> [Range<UInt64>] {
        var runs = [Range<UInt64>]()
        var page = range.lowerBound / 4096
        let last = range.upperBound / 4096
        while page < last {
            let count = Int(min(last - page, 65536))
            let bytes = try pagemap.read(count * 8, at: Int(page * 8))
            if bytes.isEmpty { break }
            for index in 0..<(bytes.count / 8) {
                let top = bytes[index * 8 + 7]
                guard top & 0xc0 != 0, top & 0x20 == 0 else { continue }
                let start = (page + UInt64(index)) * 4096
                if let run = runs.last, run.upperBound == start { runs[runs.count - 1] = run.lowerBound..<(start + 4096) }
                else { runs.append(start..<(start + 4096)) }
            }
            page += UInt64(bytes.count / 8)
        }
        return runs
    }
}
