import CLinux
package import ImageMessages

/// What a program can notice of this machine's CPU, as cpuinfo.img has it (format README 16.3): who made it, its features by
/// CPUID, the size of its XSAVE area.
package enum Processor {
    package static let image = "cpuinfo.img"
    package static let version: UInt32 = 2, words = 19

    package static func here() -> CpuinfoEntry {
        var entry = CpuinfoEntry()
        entry.x86Entry = [CPUID().entry]
        return entry
    }
}

/// The leaves of CPUID that the image tells of (Intel SDM 2, CPUID; AMD APM 3, appendix E).
struct CPUID {
    private func leaf(_ number: UInt32, _ sub: UInt32 = 0) -> clinux_cpuid { clinux_cpuid(number, sub) }

    var entry: CpuinfoX86Entry {
        var entry = CpuinfoX86Entry()
        entry.vendorID = vendor
        let signature = leaf(1).eax
        let family = signature >> 8 & 0xf, extended = signature >> 16 & 0xf
        entry.cpuFamily = family == 0xf ? family + (signature >> 20 & 0xff) : family
        entry.model = signature >> 4 & 0xf | (entry.cpuFamily >= 6 ? extended << 4 : 0)
        entry.stepping = signature & 0xf
        entry.capabilityVer = Processor.version
        entry.capability = words(signature)
        entry.modelID = modelName
        let area = leaf(0xd)
        // Components that a core image can carry. As CRIU has it the mask names neither SSE, whose registers lie in the
        // legacy area, nor MPX's bound registers.
        entry.xfeaturesMask = (UInt64(area.edx) << 32 | UInt64(area.eax)) & 0x3ff & ~0b1010
        (entry.xsaveSize, entry.xsaveSizeMax) = (area.ebx, area.ecx)
        return entry
    }

    /// In the order of Linux's words of features (arch/x86/include/asm/cpufeature.h), but leaf 7's ECX in word 11.
    private func words(_ signature: UInt32) -> [UInt32] {
        var words = [UInt32](repeating: 0, count: Processor.words)
        (words[0], words[4]) = (leaf(1).edx, leaf(1).ecx)
        (words[1], words[6]) = (leaf(0x8000_0001).edx, leaf(0x8000_0001).ecx)
        // What Linux itself adds: nopl, cpuid, rep_good (arch/x86/kernel/cpu: identify_cpu, init_amd, init_intel).
        let copiesFast = vendor == .amd ? (0xf48..<0xf50).contains(signature) || signature >= 0xf58 : vendor == .intel && signature >> 8 & 0xf == 6
        words[3] = 1 << 20 | 1 << 25 | (copiesFast ? 1 << 16 : 0)
        (words[9], words[11], words[18]) = (leaf(7).ebx, leaf(7).ecx, leaf(7).edx)
        words[10] = leaf(0xd, 1).eax
        words[13] = leaf(0x8000_0008).ebx
        words[14] = leaf(6).eax
        words[15] = leaf(0x8000_000a).edx
        words[17] = leaf(0x8000_0007).ebx
        return words
    }

    private var vendor: CpuinfoX86Entry.vendor {
        let name = leaf(0)
        switch text([name.ebx, name.edx, name.ecx]) {
        case "GenuineIntel": return .intel
        case "AuthenticAMD": return .amd
        default: return .unknown
        }
    }

    private var modelName: String {
        let words = (0x8000_0002...0x8000_0004 as ClosedRange<UInt32>).flatMap { number in
            let part = leaf(number)
            return [part.eax, part.ebx, part.ecx, part.edx]
        }
        let name = text(words)
        return String(name.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }

    private func text(_ words: [UInt32]) -> String {
        let bytes = words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * UInt32($0))) } }
        return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}
