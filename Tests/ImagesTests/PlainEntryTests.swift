@testable import Images
import ImageMessages
import SwiftProtobuf
import Testing

@Suite("entries read and written by hand") struct PlainEntryTests {
    /// Entries as images have them, of every type that is read by hand.
    private struct Entries {
        var random: Seeded

        mutating func number<Number: FixedWidthInteger>(_: Number.Type = Number.self) -> Number {
            let numbers: [UInt64] = [0, 1, 127, 128, 0x7fff_ffff_f000, .max, UInt64.random(in: 0...UInt64.max, using: &random)]
            return Number(truncatingIfNeeded: numbers.randomElement(using: &random)!)
        }
        mutating func maybe(_ set: (inout Entries) -> Void) { if Bool.random(using: &random) { set(&self) } }

        mutating func owner() -> FownEntry {
            var owner = FownEntry()
            (owner.uid, owner.euid, owner.signum, owner.pidType, owner.pid) = (number(), number(), number(), number(), number())
            return owner
        }
        mutating func regular() -> RegFileEntry {
            var file = RegFileEntry()
            (file.id, file.flags, file.pos, file.fown, file.name) = (number(), number(), number(), owner(), ["/", "/tmp/ä", "/proc/1/exe", ""].randomElement(using: &random)!)
            maybe { file.mntID = $0.number() }
            maybe { file.size = $0.number() }
            maybe { file.ext = Bool.random(using: &$0.random) }
            maybe { file.mode = $0.number() }
            maybe { entries in file.buildID = (0..<5).map { _ in entries.number() } }
            maybe { (file.checksum, file.checksumConfig, file.checksumParameter) = ($0.number(), $0.number(), $0.number()) }
            return file
        }
        mutating func file() -> FileEntry {
            var entry = FileEntry()
            entry.id = number()
            if Bool.random(using: &random) {
                (entry.type, entry.reg) = (.reg, regular())
            } else {
                entry.type = .eventfd
                (entry.efd.id, entry.efd.flags, entry.efd.fown, entry.efd.counter) = (number(), number(), owner(), number())
            }
            return entry
        }
        mutating func descriptor() -> FdinfoEntry {
            var entry = FdinfoEntry()
            (entry.id, entry.flags, entry.type, entry.fd) = (number(), number(), [.reg, .pipe, .eventfd].randomElement(using: &random)!, number())
            return entry
        }
        mutating func pages() -> PagemapEntry {
            var entry = PagemapEntry()
            (entry.vaddr, entry.compatNrPages) = (number(), number())
            maybe { entry.inParent = Bool.random(using: &$0.random) }
            maybe { entry.flags = $0.number() }
            maybe { entry.nrPages = $0.number() }
            return entry
        }
    }

    /// The message's own code says the same of these entries, and of the same ones damaged as far as this code takes them.
    private func check<Entry: PlainEntry & Equatable>(_ make: (inout Entries) -> Entry) throws {
        var entries = Entries(random: Seeded(state: 1)), taken = 0
        for _ in 0..<2000 {
            let entry = make(&entries)
            #expect(Entry(plain: try (entry.serializedBytes() as [UInt8])[...]) == entry)
        }
        for _ in 0..<20_000 {
            var bytes = try make(&entries).serializedBytes() as [UInt8]
            for _ in 0..<Int.random(in: 1...2, using: &entries.random) {
                let place = Int.random(in: 0..<bytes.count, using: &entries.random)
                switch Int.random(in: 0..<3, using: &entries.random) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &entries.random)
                case 1: bytes.insert(UInt8.random(in: 0...255, using: &entries.random), at: place)
                default: if bytes.count > 1 { bytes.remove(at: place) }
                }
            }
            guard let plain = Entry(plain: bytes[...]) else { continue }
            taken += 1
            #expect(try Entry(serializedBytes: bytes) == plain)
        }
        #expect(taken > 1000)
    }

    @Test("are what the message's own code reads") func same() throws {
        try check { $0.file() }
        try check { $0.regular() }
        try check { $0.descriptor() }
        try check { $0.pages() }
    }

    @Test("are left to it where they have unknown fields, or lack one") func others() throws {
        var entries = Entries(random: Seeded(state: 3))
        let file = try entries.file().serializedBytes() as [UInt8], unknown: [UInt8] = [0xd8, 0x06, 1]
        #expect(FileEntry(plain: file[...]) != nil)
        #expect(FileEntry(plain: (file + unknown)[...]) == nil)
        #expect(FileEntry(plain: file.prefix(4)) == nil)
        #expect(FdinfoEntry(plain: try (entries.descriptor().serializedBytes() as [UInt8]).dropLast(2)) == nil)
        var other = FileEntry()
        (other.type, other.id, other.pipe) = (.pipe, 1, PipeEntry())
        (other.pipe.id, other.pipe.pipeID, other.pipe.flags, other.pipe.fown) = (1, 2, 3, entries.owner())
        #expect(FileEntry(plain: try (other.serializedBytes() as [UInt8])[...]) == nil)
    }

    @Test("of pagemaps are written as by it") func written() throws {
        var entries = Entries(random: Seeded(state: 2))
        for _ in 0..<2000 {
            let entry = entries.pages()
            var bytes: [UInt8] = [7]
            #expect(entry.appendPlain(to: &bytes))
            #expect(Array(bytes.dropFirst()) == (try ImageWriter.frame(entry)))
        }
        var bytes: [UInt8] = []
        #expect(!PagemapEntry().appendPlain(to: &bytes) && bytes.isEmpty, "required fields are missing")
        let unknown = try PagemapEntry(serializedBytes: try entries.pages().serializedBytes() + [0x48, 1])
        #expect(!unknown.appendPlain(to: &bytes) && bytes.isEmpty)
    }
}
