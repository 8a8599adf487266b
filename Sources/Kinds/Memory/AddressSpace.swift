/// Bounds of a process's addresses.
package enum AddressSpace {
    /// End of user addresses with four-level page tables (arch/x86/include/asm/page_64_types.h, TASK_SIZE_MAX).
    package static let end: UInt64 = 0x7fff_ffff_f000
}
