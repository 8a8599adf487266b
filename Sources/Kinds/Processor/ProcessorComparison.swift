package import ImageMessages

/// Which rules of --cpu-cap hold (criu(8)); the numbers are the RPC's.
package struct ProcessorRules: OptionSet, Sendable, Hashable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    /// The XSAVE area: its components here too, its sizes the same.
    package static let fpu = ProcessorRules(rawValue: 1)
    /// All words of features the same.
    package static let cpu = ProcessorRules(rawValue: 2)
    /// Instructions of the image's CPU here too; this one may have more.
    package static let ins = ProcessorRules(rawValue: 4)
    package static let all: ProcessorRules = [.fpu, .cpu, .ins]
}

/// The CPU of the images held against another one, by CRIU's rules. What those rules miss is told beside them.
package struct ProcessorComparison: Equatable, Sendable {
    package struct Finding: Equatable, Sendable {
        package enum Rule: String, Sendable { case fpu, cpu, ins, unchecked }
        package let rule: Rule
        package let text: String
        package var features: [ProcessorFeature] = []
    }
    /// What one of the rules asked for refuses.
    package private(set) var refusals: [Finding] = []
    /// Instructions that no rule of CRIU's compares: a program that uses them would die of SIGILL here.
    package private(set) var warnings: [Finding] = []

    package init(image: CpuinfoX86Entry, here: CpuinfoX86Entry, _ rules: ProcessorRules) throws(CheckpointError) {
        let expected = [1: 12, 2: Processor.words][image.capabilityVer]
        guard let expected else {
            throw CheckpointError("compare", .image(Processor.image), "its capability version \(image.capabilityVer) is unknown", remedy: "write it again with cpuinfo dump")
        }
        guard image.capability.count == expected else {
            throw CheckpointError("compare", .image(Processor.image), "it carries \(image.capability.count) words while \(expected) are expected", remedy: "write it again with cpuinfo dump")
        }
        let missing = ProcessorFeature.all(in: zip(image.capability, here.capability).map { $0 & ~$1 })
        if rules.contains(.fpu) { compareArea(image, here, missing) }
        let lacking = missing.filter { $0.isInstruction }
        if rules.contains(.ins), !lacking.isEmpty { refusals.append(.needing(lacking, .ins)) }
        if rules.contains(.cpu) { compareWords(image, here, missing.filter { !rules.contains(.ins) || !$0.isInstruction }) }
        let unchecked = missing.filter(\.isUncheckedInstruction)
        if rules.contains(.ins), !unchecked.isEmpty { warnings.append(.needing(unchecked, .unchecked)) }
    }

    private mutating func compareArea(_ image: CpuinfoX86Entry, _ here: CpuinfoX86Entry, _ missing: [ProcessorFeature]) {
        func refuse(_ text: String) { refusals.append(Finding(rule: .fpu, text: text)) }
        let lacking = missing.filter(\.isForFloatingPoint)
        if !lacking.isEmpty { refusals.append(.needing(lacking, .fpu)) }
        let components = image.xfeaturesMask & ~here.xfeaturesMask
        if components != 0 { return refuse("the image needs the registers of \(Self.names(of: components)) (xfeatures 0x\(String(components, radix: 16))), which this CPU does not have") }
        if image.hasXsaveSize, image.xsaveSize != here.xsaveSize {
            return refuse("the image's XSAVE area takes \(image.xsaveSize) bytes, this CPU's \(here.xsaveSize)")
        }
        if image.hasXsaveSizeMax, image.xsaveSizeMax != here.xsaveSizeMax {
            refuse("the image's XSAVE area takes at most \(image.xsaveSizeMax) bytes, this CPU's \(here.xsaveSizeMax)")
        }
    }

    private mutating func compareWords(_ image: CpuinfoX86Entry, _ here: CpuinfoX86Entry, _ missing: [ProcessorFeature]) {
        if !missing.isEmpty { refusals.append(.needing(missing, .cpu)) }
        let added = ProcessorFeature.all(in: zip(image.capability, here.capability).map { ~$0 & $1 })
        if !added.isEmpty {
            refusals.append(Finding(rule: .cpu, text: "this CPU has \(Self.list(added)), which the image's had not", features: added))
        }
    }

    static func list(_ features: [ProcessorFeature]) -> String { features.map(\.description).joined(separator: ", ") }

    private static func names(of components: UInt64) -> String {
        let names = ["x87", "SSE", "AVX", "MPX", "MPX", "AVX-512", "AVX-512", "AVX-512", "processor trace", "protection keys"]
        var found = [String]()
        for bit in 0..<64 where components >> UInt64(bit) & 1 != 0 {
            let name = bit < names.count ? names[bit] : "component \(bit)"
            if found.last != name { found.append(name) }
        }
        return found.joined(separator: ", ")
    }
}

extension ProcessorComparison.Finding {
    static func needing(_ features: [ProcessorFeature], _ rule: Rule) -> Self {
        let lack = features.count == 1 ? "which this CPU does not have" : features.count == 2 ? "this CPU has neither" : "this CPU has none of them"
        return Self(rule: rule, text: "the image needs \(ProcessorComparison.list(features))\(features.count == 1 ? ", " : "; ")\(lack)", features: features)
    }
}

extension ProcessorFeature {
    /// What programs execute, as CRIU's rule "ins" has it: found by asking CRIU 4.2 for each bit (docs/coming-from-criu.md).
    var isInstruction: Bool { Self.instructions[word].map { $0 >> UInt32(bit) & 1 != 0 } ?? false }
    private static let instructions = bits([
        1: [22, 27, 30, 31], 4: [0, 1, 3, 9, 13, 19, 20, 22, 23, 25, 26, 27, 28, 29, 30], 6: [5, 6, 7, 8, 11, 16, 21],
        9: [0, 3, 4, 5, 8, 9, 11, 14, 16, 17, 18, 19, 23, 26, 27, 28, 29, 30, 31], 10: [0, 1, 2], 11: [1, 6, 8, 9, 10, 11, 12, 13, 14, 22], 13: [0], 18: [2, 3],
    ])
    private static func bits(_ numbers: [Int: [UInt32]]) -> [Int: UInt32] { numbers.mapValues { $0.reduce(0) { $0 | 1 << $1 } } }

    /// Instructions of user programs that this rule leaves out.
    var isUncheckedInstruction: Bool { Self.unchecked[word].map { $0 >> UInt32(bit) & 1 != 0 } ?? false }
    private static let unchecked = bits([
        4: [12],  // fma
        6: [0, 15],  // lahf_lm, lwp
        9: [21, 24],  // avx512ifma, clwb
        11: [3, 5, 25, 27, 28],  // pku, waitpkg, cldemote, movdiri, movdir64b
        13: [4],  // rdpru
        18: [8, 14, 22, 23, 24, 25],  // avx512_vp2intersect, serialize, amx_bf16, avx512_fp16, amx_tile, amx_int8
    ])

    /// What the frames in the images are made for: fpu, fxsr, osxsave, xsaves.
    var isForFloatingPoint: Bool { [[0, 0], [0, 24], [4, 27], [10, 3]].contains([word, bit]) }
}

extension Processor {
    package static func compare(_ image: CpuinfoEntry?, _ rules: ProcessorRules) throws(CheckpointError) -> ProcessorComparison {
        guard let image else {
            throw CheckpointError("compare", .image(Processor.image), "there is none: the dump was made without --cpu-cap", remedy: "dump with --cpu-cap, or leave it out here, too")
        }
        guard let theirs = image.x86Entry.first, image.x86Entry.count == 1 else {
            throw CheckpointError("compare", .image(Processor.image), "it tells of \(image.x86Entry.count) x86 CPUs instead of one")
        }
        return try ProcessorComparison(image: theirs, here: CPUID().entry, rules)
    }
}

extension ProcessorComparison {
    /// All refusals in one error.
    package var error: CheckpointError? {
        guard !refusals.isEmpty else { return nil }
        let broken = refusals.map { "^" + $0.rule.rawValue }.reduce(into: [String]()) { if !$0.contains($1) { $0.append($1) } }
        return CheckpointError(
            "restore", .object("the images on this CPU"), refusals.map(\.text).joined(separator: "; "),
            remedy: "restore on a CPU like that of the dump, or leave rules out with --cpu-cap=\(broken.joined(separator: ","))")
    }
}
