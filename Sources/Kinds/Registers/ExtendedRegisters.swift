import CLinux
package import Graft
package import ImageMessages
package import Linux

/// x87, SSE, AVX, AVX-512, MPX and protection key registers: the XSAVE area in the standard format, as PTRACE_GETREGSET
/// NT_X86_XSTATE has it ⇄ user_x86_fpregs_entry. (Intel SDM 1, chapter 13; arch/x86/include/asm/fpu/types.h)
package struct ExtendedRegisters: Equatable, Sendable {
    /// Where a CPU's XSAVE area has its components: CPUID leaf 0xD.
    package struct Layout: Equatable, Sendable {
        package struct Place: Equatable, Sendable { package let offset: Int, size: Int }
        package let places: [Int: Place]
        package init(places: [Int: Place]) { self.places = places }

        /// This CPU's, restricted to what the kernel has switched on (the regset's own size bounds it).
        package static let here: Layout = {
            let enabled = clinux_cpuid(0xd, 0)
            let mask = UInt64(enabled.edx) << 32 | UInt64(enabled.eax)
            var places = [Int: Place]()
            for component in Component.allCases where mask & 1 << UInt64(component.rawValue) != 0 {
                let leaf = clinux_cpuid(0xd, UInt32(component.rawValue))
                if leaf.eax > 0 { places[component.rawValue] = Place(offset: Int(leaf.ebx), size: Int(leaf.eax)) }
            }
            return Layout(places: places)
        }()
    }

    /// The components of an image, by their bit in XSTATE_BV; 0 (x87) and 1 (SSE) lie in the legacy area.
    enum Component: Int, CaseIterable {
        case ymm = 2, boundRegisters = 3, boundConfiguration = 4, opmask = 5, zmmUpper = 6, zmm16 = 7, protectionKeys = 9
        var bytes: Int {
            switch self {
            case .ymm: 256
            case .boundRegisters, .boundConfiguration, .opmask: 64
            case .zmmUpper: 512
            case .zmm16: 1024
            case .protectionKeys: 8
            }
        }
        var name: String {
            switch self {
            case .ymm: "AVX"
            case .boundRegisters, .boundConfiguration: "MPX"
            case .opmask, .zmmUpper, .zmm16: "AVX-512"
            case .protectionKeys: "protection key"
            }
        }
    }

    package struct Mismatch: Error, CustomStringConvertible { package let description: String }

    /// Whether this CPU has XSAVE and the kernel uses it (OSXSAVE); else there is but FXSAVE's part (arch/x86/kernel/fpu/regset.c).
    private static let hasComponents = clinux_cpuid(1, 0).ecx & 1 << 27 != 0
    private static let note = hasComponents ? Int(CLINUX_NT_X86_XSTATE) : 2  // NT_PRFPREG
    /// The size of the area here.
    static let size = hasComponents ? max(576, Int(clinux_cpuid(0xd, 0).ebx)) : 512

    package init(of task: TracedTask) throws(SyscallError) { area = try task.registerSet(Self.note) }
    package func set(in task: TracedTask) throws(SyscallError) { try task.setRegisterSet(Self.note, area) }

    /// FXSAVE's 512 bytes, XSTATE_BV at 512, components behind 576.
    package var area: [UInt8]

    package init(area: [UInt8]) { self.area = area }

    // Dump.

    package func entry(_ layout: Layout = .here) -> UserX86FpregsEntry {
        var entry = UserX86FpregsEntry()
        entry.cwd = UInt32(area.word(UInt16.self, at: 0))
        entry.swd = UInt32(area.word(UInt16.self, at: 2))
        entry.twd = UInt32(area.word(UInt16.self, at: 4))
        entry.fop = UInt32(area.word(UInt16.self, at: 6))
        entry.rip = area.word(at: 8)
        entry.rdp = area.word(at: 16)
        entry.mxcsr = area.word(at: 24)
        entry.mxcsrMask = area.word(at: 28)
        entry.stSpace = area.words(in: 32..<160)
        entry.xmmSpace = area.words(in: 160..<416)
        guard area.count >= 576 else { return entry }
        var xsave = UserX86XsaveEntry()
        xsave.xstateBv = area.word(at: 512)
        func bytes(_ component: Component) -> Range<Int>? {
            guard let place = layout.places[component.rawValue], place.size >= component.bytes, place.offset + component.bytes <= area.count else { return nil }
            return place.offset..<(place.offset + component.bytes)
        }
        if let range = bytes(.ymm) { xsave.ymmhSpace = area.words(in: range) }
        if let range = bytes(.boundRegisters) { xsave.bndregState = area.words(in: range) }
        if let range = bytes(.boundConfiguration) { xsave.bndcsrState = area.words(in: range) }
        if let range = bytes(.opmask) { xsave.opmaskReg = area.words(in: range) }
        if let range = bytes(.zmmUpper) { xsave.zmmUpper = area.words(in: range) }
        if let range = bytes(.zmm16) { xsave.hi16Zmm = area.words(in: range) }
        if let range = bytes(.protectionKeys) { xsave.pkru = area.words(in: range) }
        entry.xsave = xsave
        return entry
    }

    // Restore.

    /// The area for this machine: `template` is what PTRACE_GETREGSET gives here, which has the size, the mask of MXCSR bits
    /// that this CPU knows, and the values of components that the image does not have.
    package init(_ entry: UserX86FpregsEntry, template: [UInt8], _ layout: Layout = .here) throws {
        guard template.count >= 512 else { throw Mismatch(description: "this machine's register set has \(template.count) bytes") }
        guard entry.stSpace.count == 32, entry.xmmSpace.count == 64 else {
            throw Mismatch(description: "st_space has \(entry.stSpace.count) words instead of 32, or xmm_space \(entry.xmmSpace.count) instead of 64")
        }
        var area = [UInt8](repeating: 0, count: template.count)
        area.put(UInt16(truncatingIfNeeded: entry.cwd), at: 0)
        area.put(UInt16(truncatingIfNeeded: entry.swd), at: 2)
        area.put(UInt16(truncatingIfNeeded: entry.twd), at: 4)
        area.put(UInt16(truncatingIfNeeded: entry.fop), at: 6)
        area.put(entry.rip, at: 8)
        area.put(entry.rdp, at: 16)
        // A bit that this CPU does not know would be refused (EINVAL).
        let known = template.word(UInt32.self, at: 28)
        area.put(entry.mxcsr & (known == 0 ? 0xffbf : known), at: 24)
        area.put(known, at: 28)
        area.put(entry.stSpace, at: 32)
        area.put(entry.xmmSpace, at: 160)
        // Legacy registers not in their initial state must be marked as used, whatever the image says.
        var used: UInt64 = entry.hasXsave ? entry.xsave.xstateBv & 3 : 3
        if entry.cwd != 0x37f || entry.swd != 0 || entry.twd != 0 || entry.stSpace.contains(where: { $0 != 0 }) { used |= 1 }
        if entry.mxcsr != 0x1f80 || entry.xmmSpace.contains(where: { $0 != 0 }) { used |= 2 }
        let xsave = entry.xsave
        func put<Word: FixedWidthInteger & BitwiseCopyable>(_ component: Component, _ words: [Word]) throws {
            let bit = UInt64(1) << UInt64(component.rawValue)
            let place = layout.places[component.rawValue]
            let fits = place.map { $0.size >= component.bytes && $0.offset >= 576 && $0.offset + component.bytes <= area.count } ?? false
            if words.isEmpty {
                // The image's CPU did not have it: what a new task has here (PKRU is not zero in one).
                if component == .protectionKeys, fits, let place {
                    area.put(template.words(UInt8.self, in: place.offset..<(place.offset + component.bytes)), at: place.offset)
                    used |= template.word(UInt64.self, at: 512) & bit
                }
                return
            }
            guard words.count * MemoryLayout<Word>.size == component.bytes else {
                throw Mismatch(description: "\(component.name) registers have \(words.count) words instead of \(component.bytes / MemoryLayout<Word>.size)")
            }
            guard fits, let place else {
                if xsave.xstateBv & bit == 0 || words.allSatisfy({ $0 == 0 }) { return }
                // What every task begins with where there are protection keys: nothing but key 0 (arch/x86/mm/pkeys.c, init_pkru_value).
                if component == .protectionKeys, words[0] == 0x5555_5554 { return }
                throw Mismatch(description: "the task used \(component.name) registers, which this CPU does not have")
            }
            area.put(words, at: place.offset)
            used |= xsave.xstateBv & bit
        }
        try put(.ymm, xsave.ymmhSpace)
        try put(.boundRegisters, xsave.bndregState)
        try put(.boundConfiguration, xsave.bndcsrState)
        try put(.opmask, xsave.opmaskReg)
        try put(.zmmUpper, xsave.zmmUpper)
        try put(.zmm16, xsave.hi16Zmm)
        try put(.protectionKeys, xsave.pkru)
        if area.count >= 576 { area.put(used, at: 512) }
        self.area = area
    }
}
