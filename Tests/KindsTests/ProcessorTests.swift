import ImageMessages
@testable import Kinds
import Testing

@Suite("the CPU of the images") struct ProcessorTests {
    /// An AMD EPYC with AVX2, as CRIU 4.2 wrote it.
    static let epyc: CpuinfoX86Entry = {
        var entry = CpuinfoX86Entry()
        (entry.vendorID, entry.cpuFamily, entry.model, entry.stepping, entry.capabilityVer) = (.amd, 25, 1, 1, 2)
        entry.capability = [
            0x178b_fbff, 0x2fd3_fbff, 0, 0x211_0000, 0xfffa_3203, 0, 0x40_03f3, 0, 0, 0x219c_07ab, 0xf, 0x40_0684, 0, 0x1000_0005, 4, 0, 0, 0, 0x10,
        ]
        (entry.modelID, entry.xfeaturesMask, entry.xsaveSize, entry.xsaveSizeMax) = ("AMD EPYC", 5, 832, 832)
        return entry
    }()

    private func refusals(_ rules: ProcessorRules, _ change: (inout CpuinfoX86Entry) -> Void) throws -> [String] {
        var image = Self.epyc
        change(&image)
        return try ProcessorComparison(image: image, here: Self.epyc, rules).refusals.map(\.text)
    }

    @Test("a CPU fits itself, by every rule") func itself() throws {
        #expect(try refusals(.all) { _ in } == [])
        let here = try #require(Processor.here().x86Entry.first)
        #expect(here.capability.count == 19)
        #expect(try ProcessorComparison(image: here, here: here, .all) == ProcessorComparison(image: Self.epyc, here: Self.epyc, .all))
    }

    @Test("missing instructions are named") func instructions() throws {
        #expect(try refusals(.ins) { $0.capability[9] |= 1 << 16 } == ["the image needs avx512f, which this CPU does not have"])
        #expect(try refusals(.ins) { $0.capability[9] |= 1 << 16 | 1 << 30 } == ["the image needs avx512f, avx512bw; this CPU has neither"])
        #expect(try refusals(.ins) { $0.capability[9] |= 7 << 26 } == ["the image needs avx512pf, avx512er, avx512cd; this CPU has none of them"])
        #expect(try refusals(.fpu) { $0.capability[9] |= 1 << 16 } == [])
        #expect(try refusals(.ins) { $0.capability[9] &= ~(1 << 5) } == [])
    }

    @Test("what CRIU leaves out is a warning") func unchecked() throws {
        var image = Self.epyc
        image.capability[9] |= 1 << 21
        let comparison = try ProcessorComparison(image: image, here: Self.epyc, .ins)
        #expect(comparison.refusals.isEmpty && comparison.error == nil)
        #expect(comparison.warnings.map(\.text) == ["the image needs avx512ifma, which this CPU does not have"])
    }

    @Test("rule cpu wants the same words") func words() throws {
        #expect(try refusals(.cpu) { $0.capability[0] &= ~1 } == ["this CPU has fpu, which the image's had not"])
        #expect(try refusals(.cpu) { $0.capability[2] |= 1 } == ["the image needs CPUID word 2 bit 0, which this CPU does not have"])
        #expect(try refusals([.fpu, .ins]) { $0.capability[2] |= 1 } == [])
    }

    @Test("rule fpu wants components and sizes of the XSAVE area") func area() throws {
        #expect(try refusals(.fpu) { $0.xfeaturesMask = 0xe5 }.first == "the image needs the registers of AVX-512 (xfeatures 0xe0), which this CPU does not have")
        #expect(try refusals(.fpu) { $0.xsaveSize = 576 } == ["the image's XSAVE area takes 576 bytes, this CPU's 832"])
        #expect(try refusals(.fpu) { $0.xsaveSizeMax = 1024 } == ["the image's XSAVE area takes at most 1024 bytes, this CPU's 832"])
        #expect(try refusals(.fpu) { $0.xfeaturesMask = 1; $0.clearXsaveSize(); $0.clearXsaveSizeMax() } == [])
        #expect(try refusals(.ins) { $0.xsaveSize = 576 } == [])
    }

    @Test("an error names every rule that refuses") func error() throws {
        var image = Self.epyc
        image.capability[9] |= 1 << 16
        image.xsaveSize = 576
        let error = try #require(try ProcessorComparison(image: image, here: Self.epyc, [.fpu, .ins]).error)
        #expect(error.remedy?.hasSuffix("--cpu-cap=^fpu,^ins") == true)
        #expect(error.cause.contains("avx512f") && error.cause.contains("576"))
    }

    @Test("a version or a number of words that is unknown is refused in any case") func shape() {
        #expect(throws: CheckpointError.self) { try refusals([]) { $0.capabilityVer = 3 } }
        #expect(throws: CheckpointError.self) { try refusals([]) { $0.capability.removeLast() } }
        #expect(throws: CheckpointError.self) { try Processor.compare(nil, .all) }
    }
}
