package import Linux

/// Bounds of a process's addresses.
package enum AddressSpace {
    /// End of user addresses with four-level page tables (arch/x86/include/asm/page_64_types.h, TASK_SIZE_MAX).
    package static let end: UInt64 = 0x7fff_ffff_f000
    /// Below it only root may map (vm.mmap_min_addr, by default).
    package static let begin: UInt64 = 0x10000

    /// Where nothing is mapped now.
    package static func gaps(of process: ThreadID) throws(SyscallError) -> [Range<UInt64>] {
        var found = [Range<UInt64>](), at = begin
        for mapping in try Mapping.all(of: process, withFlags: false) where mapping.start < end {
            if mapping.start > at { found.append(at..<mapping.start) }
            at = max(at, mapping.end)
        }
        return at < end ? found + [at..<end] : found
    }
}
