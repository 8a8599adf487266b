import Glibc
package import ImageMessages
package import Linux

/// vma_entry.status, format README 8.4.
package struct MappingStatus: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static let regular = Self(rawValue: 0x1), vsyscall = Self(rawValue: 0x4), vdso = Self(rawValue: 0x8), heap = Self(rawValue: 0x20)
    package static let filePrivate = Self(rawValue: 0x40), fileShared = Self(rawValue: 0x80), anonymousShared = Self(rawValue: 0x100)
    package static let anonymousPrivate = Self(rawValue: 0x200), sysV = Self(rawValue: 0x400), socket = Self(rawValue: 0x800), vvar = Self(rawValue: 0x1000)
    package static let aioRing = Self(rawValue: 0x2000), memfd = Self(rawValue: 0x4000), shadowStack = Self(rawValue: 0x8000)
    package static let guardRange = Self(rawValue: 0x10000), plugin = Self(rawValue: 0x800_0000)
    /// Our own: its file is a ring of io_uring.
    package static let ioUring = Self(rawValue: 0x1000_0000)
    /// Private memory without a file.
    package static let plain: Self = [.regular, .anonymousPrivate]
    /// Mappings of a file; private memory; what the kernel itself maps.
    package static let ofFile: Self = [.filePrivate, .fileShared], ofPages: Self = [.anonymousPrivate, .filePrivate], ofKernel: Self = [.vdso, .vvar, .vsyscall]
    /// What maps a file that does not exist yet when memory is made; and all that its own kind makes.
    package static let ofLaterFile: Self = [.socket, .plugin, .ioUring], ofOwnKind: Self = ofLaterFile.union(.aioRing)
}

/// What a mapping is, told from its line in smaps. A kind that can't be saved says why.
package enum MappingKind: Equatable, Sendable {
    case vsyscall, vvar, vdso, anonymous, heap, file, memfd, anonymousShared, sysV(id: UInt64), aioRing, hugetlbPrivate, socket, ioUring
    case unsupported(String)

    /// The names are those of fs/proc/task_mmu.c (show_map_vma) and mm/shmem.c.
    package init(_ mapping: Mapping) {
        let name = mapping.name
        self = switch true {
        // Memory that may only be executed has a key of the kernel's, which it gives again (mm/pkeys.c, execute_only_pkey).
        case mapping.protectionKey != 0 && mapping.protection != PROT_EXEC: .unsupported("it is under protection key \(mapping.protectionKey) (pkey_mprotect(2)): keys are not supported yet")
        case name == "[vsyscall]": .vsyscall
        case name.hasPrefix("[vvar"): .vvar
        case name == "[vdso]": .vdso
        case name == "[heap]": .heap
        case name == "[uprobes]": .unsupported("it is the kernel's area for uprobes")
        case name.isEmpty || name.hasPrefix("["): mapping.shared && mapping.inode == 0 && name.isEmpty ? .unsupported("it is shared memory without a file") : .anonymous
        case name.hasPrefix("/[aio]"): .aioRing
        case name.hasPrefix("/SYSV") && name.hasSuffix(" (deleted)"): .sysV(id: mapping.inode)
        case name.hasPrefix("/memfd:"): .memfd
        case name == "/dev/zero (deleted)" && mapping.major == 0: .anonymousShared
        case name.hasPrefix("/anon_hugepage"): mapping.shared ? .memfd : .hugetlbPrivate
        case name == IOUringFile.link: .ioUring
        case name.hasPrefix("anon_inode:"): .unsupported("it belongs to \(name), which has no image")
        case name.hasPrefix("socket:"): .socket
        case mapping.flags.contains(.io) || mapping.flags.contains(.pureFrameNumbers): .unsupported("it is device memory")
        default: .file
        }
    }
}

extension Mapping {
    /// MAP_* flags as the image keeps them (format README 8.2).
    var imageFlags: UInt32 {
        var value: UInt32 = flags.contains(.droppable) ? 8 : shared ? 1 : 2
        if flags.contains(.growsDown) { value |= 0x100 }
        if flags.contains(.locked) { value |= 0x2000 }
        if flags.contains(.noReserve) { value |= 0x4000 }
        if flags.contains(.hugetlb) { value |= 0x40000 | UInt32(kernelPageSize.trailingZeroBitCount) << 26 }
        return value
    }
    /// madvise(2) advice that lasts, a bit (1 << advice) each.
    var imageAdvice: UInt64 {
        if flags.isEmpty { return 0 }
        return Self.advice.reduce(0) { flags.contains($1.0) ? $0 | 1 << $1.1 : $0 }
    }
    private static let advice: [(VMFlags, UInt64)] = [
        (.random, 1), (.sequential, 2), (.dontFork, 10), (.mergeable, 12), (.hugePage, 14), (.noHugePage, 15), (.dontDump, 16), (.wipeOnFork, 18),
    ]
}

extension VmaEntry {
    package var statusBits: MappingStatus { MappingStatus(rawValue: status) }
    /// Whether the contents live in pagemap-PID (format README 8.5, "private").
    package var isPrivate: Bool {
        let bits = statusBits
        if bits.contains(.plugin) { return false }
        if bits.contains(.aioRing) { return true }
        return bits.contains(.regular) && !bits.isDisjoint(with: .ofPages) && end <= AddressSpace.end
    }
    /// Whether its pages may come after the process runs: private memory without a file, of ordinary pages, not locked (format README 9.2).
    package var canBeLazy: Bool { statusBits.contains(.anonymousPrivate) && statusBits.isDisjoint(with: .ofKernel) && flags & (0x40000 | 0x2000 | 8) == 0 }
    package var length: UInt64 { end - start }
}
