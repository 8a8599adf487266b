@testable import Images
import ImageMessages
import SwiftProtobuf
import Testing

@Suite("entries of pagemaps, read and written by hand") struct PagemapEntryTests {
    private static func some(_ random: inout Seeded) -> PagemapEntry {
        let numbers: [UInt64] = [0, 1, 127, 128, 0x7fff_ffff_f000, .max, UInt64.random(in: 0...UInt64.max, using: &random)]
        var entry = PagemapEntry()
        (entry.vaddr, entry.compatNrPages) = (numbers.randomElement(using: &random)!, UInt32(truncatingIfNeeded: numbers.randomElement(using: &random)!))
        if Bool.random(using: &random) { entry.inParent = Bool.random(using: &random) }
        if Bool.random(using: &random) { entry.flags = UInt32(truncatingIfNeeded: numbers.randomElement(using: &random)!) }
        if Bool.random(using: &random) { entry.nrPages = numbers.randomElement(using: &random)! }
        return entry
    }

    @Test("are the bytes of the message's own code, both ways")
    func same() throws {
        var random = Seeded(state: 1)
        for _ in 0..<2000 {
            let entry = Self.some(&random), frame = try ImageWriter.frame(entry)
            var bytes: [UInt8] = [7]
            #expect(entry.appendPlain(to: &bytes))
            #expect(Array(bytes.dropFirst()) == frame)
            #expect(PagemapEntry(plain: frame.dropFirst(4)) == entry)
        }
    }

    @Test("what this code takes, the message's own reads the same")
    func damaged() throws {
        var random = Seeded(state: 2), taken = 0
        for _ in 0..<20_000 {
            var bytes = try Self.some(&random).serializedBytes() as [UInt8]
            for _ in 0..<Int.random(in: 1...2, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.insert(UInt8.random(in: 0...255, using: &random), at: place)
                default: if bytes.count > 1 { bytes.remove(at: place) }
                }
            }
            guard let plain = PagemapEntry(plain: bytes[...]) else { continue }
            taken += 1
            #expect(try PagemapEntry(serializedBytes: bytes) == plain)
        }
        #expect(taken > 1000)
    }

    @Test("unknown fields, missing ones and fields said twice are left to it")
    func others() throws {
        var entry = PagemapEntry()
        var bytes: [UInt8] = []
        #expect(!entry.appendPlain(to: &bytes) && bytes.isEmpty, "required fields are missing")
        (entry.vaddr, entry.compatNrPages) = (0x1000, 1)
        bytes = try entry.serializedBytes()
        #expect(PagemapEntry(plain: bytes[...]) == entry)
        #expect(PagemapEntry(plain: (bytes + [0x48, 1])[...]) == nil)
        #expect(PagemapEntry(plain: (bytes + bytes)[...]) == nil)
        #expect(PagemapEntry(plain: bytes.dropLast(2)) == nil)
        let unknown = try PagemapEntry(serializedBytes: bytes + [0x48, 1])
        var copy: [UInt8] = []
        #expect(!unknown.appendPlain(to: &copy) && copy.isEmpty)
    }
}
