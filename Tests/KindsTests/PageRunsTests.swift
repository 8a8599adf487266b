import ImageMessages
@testable import Kinds
import Testing

@Suite("page runs") struct PageRunsTests {
    func mapping(_ range: Range<UInt64>, status: UInt32, prot: UInt32 = 3, flags: UInt32 = 0x22) -> VmaEntry {
        var entry = VmaEntry()
        (entry.start, entry.end, entry.pgoff, entry.shmid, entry.prot, entry.flags, entry.status, entry.fd) = (range.lowerBound, range.upperBound, 0, 0, prot, flags, status, -1)
        return entry
    }

    @Test("a run of pages is cut where mappings end, and by what kind of memory they are")
    func cut() {
        let runs = PageRuns(own: [0x10000..<0x14000, 0x20000..<0x21000], in: [
            mapping(0x10000..<0x12000, status: 0x201), mapping(0x12000..<0x13000, status: 0x41, prot: 1, flags: 2), mapping(0x20000..<0x30000, status: 0x201, flags: 0x2022),
        ])
        #expect(runs.runs == [
            .init(range: 0x10000..<0x12000, flags: 6, readable: true), .init(range: 0x12000..<0x13000, flags: 4, readable: true),
            .init(range: 0x20000..<0x21000, flags: 4, readable: true),
        ])
        #expect(runs.pages == 4 && runs.entries().map(\.vaddr) == [0x10000, 0x12000, 0x20000])
    }

    @Test("the vDSO is saved whole, vvar and shared memory not at all")
    func special() {
        let runs = PageRuns(own: [0x40000..<0x44000], in: [
            mapping(0x10000..<0x14000, status: 0x1201), mapping(0x14000..<0x16000, status: 0x209, prot: 5), mapping(0x40000..<0x44000, status: 0x81, flags: 1),
        ])
        #expect(runs.runs == [.init(range: 0x14000..<0x16000, flags: 4, readable: true)])
    }

    @Test("pages that the parent has are told from the others, also within a run")
    func unchanged() {
        let runs = PageRuns(own: [0x10000..<0x16000], in: [mapping(0x10000..<0x20000, status: 0x201)], unchanged: [0xf000..<0x11000, 0x12000..<0x13000, 0x15000..<0x18000])
        #expect(runs.runs == [
            .init(range: 0x10000..<0x11000, flags: 1, readable: true), .init(range: 0x11000..<0x12000, flags: 6, readable: true),
            .init(range: 0x12000..<0x13000, flags: 1, readable: true), .init(range: 0x13000..<0x15000, flags: 6, readable: true),
            .init(range: 0x15000..<0x16000, flags: 1, readable: true),
        ])
        #expect(runs.pages == 3 && runs.count(of: PageRuns.parent) == 3)
    }

    @Test("what can come later is left out of a lazy dump")
    func postponed() {
        let runs = PageRuns(own: [0x10000..<0x12000, 0x20000..<0x21000], in: [mapping(0x10000..<0x12000, status: 0x201), mapping(0x20000..<0x21000, status: 0x41, flags: 2)], postponed: true)
        #expect(runs.runs.map(\.flags) == [2, 4] && runs.pages == 1)
    }
}
