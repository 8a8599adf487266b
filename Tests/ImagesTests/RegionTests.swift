import Foundation
import ImageMessages
@testable import Images
import Linux
import Testing

@Suite("compressed pages") struct RegionTests {
    static let methods: [Compression] = [.zstd(level: 1), .zstd(level: 9), .lz4]

    private func pagemap(_ directory: ImageDirectory, _ name: String) throws -> (PagemapHead, [PagemapEntry]) {
        var reader = try directory.reader(name)
        return (try reader.single(PagemapHead.self), try reader.all(PagemapEntry.self))
    }

    /// A dump of CRIU's with its pages compressed.
    private func compressed(_ golden: Golden, _ method: Compression) throws -> Scratch {
        let scratch = try Scratch(golden), workers = Workers(2), buffer = PageBuffer(3 * 4096)
        for name in try scratch.directory.names() {
            guard let (file, number) = ImageFile.pagemap(named: name) else { continue }
            let plain = try scratch.directory.checkedPagemap(file, number), (head, entries) = try pagemap(scratch.directory, name)
            let pages = try NewPagesFile(head.pagesID, pagemap: name, in: scratch.directory.descriptor, workers, method)
            pages.entries = entries
            var at: UInt64 = 0
            while at < plain.bytesInPagesFile {
                try buffer.fill(from: try scratch.directory.open(plain.pagesFile), at: at, Int(plain.bytesInPagesFile - at))
                try pages.append(buffer)
                at += UInt64(buffer.count)
            }
            try pages.isWhole()
            try workers.finish()
            try pages.writeImages(in: scratch.directory.descriptor)
            try scratch.remove(plain.pagesFile)
        }
        try FileChecksums.write(in: scratch.directory.descriptor)
        return scratch
    }

    private func content(_ directory: ImageDirectory) throws -> [UInt64: [UInt8]] {
        let chain = try PageChain(directory)
        var found: [UInt64: [UInt8]] = [:]
        for name in try directory.names() {
            guard let (file, number) = ImageFile.pagemap(named: name) else { continue }
            let image = try PageImage(chain, file, number), readers = image.files.map(PagesReader.init)
            for run in image.runs { found[number << 48 ^ run.range.lowerBound] = try readers[run.file].bytes(run.offset..<(run.offset + UInt64(run.range.count))) }
        }
        return found
    }

    @Test("are those that went in, and smaller", arguments: methods, ["simple", "memory", "tree"]) func roundTrip(method: Compression, name: String) throws {
        let golden = Golden("\(name)/images", ""), scratch = try compressed(golden, method)
        #expect(try content(scratch.directory) == content(golden.directory))
        #expect(try ImageSet(scratch.directory).problems() == [])
        let verification = try Verification.whole(scratch.directory)
        #expect(verification.problems() == [] && verification.count.pages > 10)
        #expect(try scratch.directory.size(of: "compressed-1.img") < golden.directory.size(of: "pages-1.img"))
    }

    @Test("a changed, cut or empty file is found", arguments: methods) func damaged(method: Compression) throws {
        let scratch = try compressed(Golden("simple/images", ""), method)
        let bytes = try scratch.directory.contents(of: "compressed-1.img")
        var random = Seeded(state: 11)
        for _ in 0..<60 {
            var changed = bytes
            changed[Int(random.next() % UInt64(bytes.count))] ^= UInt8(1 << (random.next() % 8))
            try scratch.write("compressed-1.img", changed)
            let found = try Verification.whole(scratch.directory).problems()
            #expect(!found.isEmpty && found.allSatisfy { $0.file == "compressed-1.img" }, "\(found)")
        }
        for changed in [Array(bytes.dropLast()), [], [UInt8](repeating: 0, count: bytes.count), Array(bytes.reversed())] {
            try scratch.write("compressed-1.img", changed)
            #expect(!(try Verification.whole(scratch.directory).problems().isEmpty))
        }
        try scratch.write("compressed-1.img", bytes)
        #expect(try Verification.whole(scratch.directory).problems() == [])
    }

    @Test("an index that lies is refused") func lies() throws {
        let scratch = try compressed(Golden("simple/images", ""), .lz4), name = "pagemap-28540.img"
        let (head, entries) = try pagemap(scratch.directory, name)
        let lies: [(inout PagemapHead) -> Void] = [
            { $0.compression = 9 }, { $0.regionPages = 0 }, { $0.regionPages = .max }, { $0.regionBytes.removeLast() }, { $0.regionOffset.append(1) },
            { $0.regionBytes[0] = 0 }, { $0.regionBytes[0] = .max }, { $0.regionOffset[0] = .max }, { $0.regionOffset[0] = 1 << 62 },
        ]
        for lie in lies {
            var lying = head
            lie(&lying)
            var bytes = ImageFile.pagemap.kind.magic.bytes + (try ImageWriter.frame(lying))
            for entry in entries { bytes += try ImageWriter.frame(entry) }
            try scratch.write(name, bytes)
            #expect(throws: ImageError.self) { try PageChain(scratch.directory).extents(of: .pagemap, 28540) }
        }
    }

    @Test("a region is freed when none of its pages is wanted") func freed() throws {
        let scratch = try compressed(Golden("simple/images", ""), .zstd(level: 1))
        let regions = try #require(try scratch.directory.checkedPagemap(.pagemap, 28540).regions)
        #expect(regions.places(coveredBy: [0..<regions.bytes]) == regions.places)
        #expect(regions.places(coveredBy: [0..<4096, 4096..<regions.bytes]) == regions.places)
        #expect(regions.places(coveredBy: [4096..<regions.bytes]) == Array(regions.places.dropFirst()))
        #expect(regions.places(coveredBy: [0..<(regions.bytes - 4096)]) == Array(regions.places.dropLast()))
    }

    @Test("methods as they are written", arguments: ["zstd": .zstd(level: 1), "zstd:19": .zstd(level: 19), "zstd:-3": .zstd(level: -3), "lz4": .lz4] as [String: Compression])
    func words(text: String, method: Compression) { #expect(Compression(text) == method) }
    @Test("no methods", arguments: ["", "zstd:", "zstd:99", "lz4:1", "gzip", "zstd:1:2"]) func noWords(text: String) { #expect(Compression(text) == nil) }
}
