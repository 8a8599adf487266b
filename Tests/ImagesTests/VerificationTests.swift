import Foundation
import ImageMessages
@testable import Images
import Linux
import Testing

@Suite("checksums of images") struct VerificationTests {
    /// A dump of CRIU's with the checksums that ours have.
    private func verifiable(_ golden: Golden = Golden("simple/images", ""), withParent: Bool = false) throws -> Scratch {
        let scratch = try Scratch(golden, withParent: withParent)
        for name in try scratch.directory.names() {
            guard let (file, number) = ImageFile.pagemap(named: name) else { continue }
            let pagemap = try scratch.directory.checkedPagemap(file, number)
            let sums = try Checksum.ofPages(of: scratch.directory.open(pagemap.pagesFile), 0..<pagemap.bytesInPagesFile)
            let pages = try #require(ImageKind.named(pagemap.pagesFile)?.number)
            try PageChecksums(sums).write(for: UInt32(pages), pagemap: name, in: scratch.directory.descriptor)
        }
        try FileChecksums.write(in: scratch.directory.descriptor)
        return scratch
    }
    private func problems(_ scratch: Scratch) -> [ImageError] {
        do throws(ImageError) { return try Verification.whole(scratch.directory).problems() } catch { return [error] }
    }

    @Test("images as they were dumped have no problems", arguments: ["simple", "tree", "memory", "sockets"]) func sound(name: String) throws {
        let scratch = try verifiable(Golden("\(name)/images", ""))
        let verification = try Verification.whole(scratch.directory)
        #expect(verification.problems() == [])
        let count = verification.count
        #expect(count.files > 8 && count.pages > 10 && count.unknownPages == 0 && count.freedPages == 0)
    }

    @Test("a flipped byte of any image is found, and the image named") func files() throws {
        let scratch = try verifiable()
        for name in try scratch.directory.names() where !name.hasPrefix("pages-") && name != "inventory.img" && name.hasSuffix(".img") {
            let bytes = try scratch.directory.contents(of: name)
            for at in Set([0, bytes.count / 2, bytes.count - 1]) {
                var changed = bytes
                changed[at] ^= 0x10
                try scratch.write(name, changed)
                let found = problems(scratch)
                #expect(!found.isEmpty && found.contains { $0.file == name || $0.file.hasPrefix("checksums") }, "\(name) at \(at): \(found)")
            }
            try scratch.write(name, Array(bytes.dropLast()))
            #expect(!problems(scratch).isEmpty, "\(name) cut short")
            try scratch.remove(name)
            if name != "checksums.img" { #expect(!problems(scratch).isEmpty, "\(name) removed") }  // CRIU's inventory says nothing of it
            try scratch.write(name, bytes)
        }
        #expect(problems(scratch) == [])
    }

    @Test("pagemaps of a page server that works in the same directory may follow") func pagesElsewhere() throws {
        let scratch = try verifiable()
        try FileChecksums.write(in: scratch.directory.descriptor, ownPages: false)
        let covered = try #require(try FileChecksums(of: scratch.directory)).entries.map(\.name)
        #expect(covered.contains("core-28540.img") && !covered.contains { $0.hasPrefix("pagemap-") })
    }

    @Test("a flipped byte of a page is named by page, task and mapping") func page() throws {
        let scratch = try verifiable()
        let chain = try PageChain(scratch.directory)
        let image = try PageImage(chain, .pagemap, 28540)
        let bytes = try scratch.directory.contents(of: "pages-1.img")
        for run in image.runs {
            let offset = Int(run.offset) + 4096 * (run.range.count / 4096 - 1) + 77
            var changed = bytes
            changed[offset] ^= 1
            try scratch.write("pages-1.img", changed)
            let found = problems(scratch)
            #expect(found.count == 1 && found[0].file == "pages-1.img")
            #expect(found[0].cause.hasPrefix("the page at \(hex(run.range.upperBound - 4096)) of task 28540, in mapping "), "\(found)")
        }
    }

    @Test("no cut or change of the checksums themselves is believed, or crashes") func mutated() throws {
        let scratch = try verifiable()
        var random = Seeded(state: 5)
        for name in ["checksums.img", "checksums-1.img"] {
            let bytes = try scratch.directory.contents(of: name)
            for size in stride(from: 0, to: bytes.count, by: max(1, bytes.count / 100)) {
                try scratch.write(name, Array(bytes[..<size]))
                #expect(!problems(scratch).isEmpty, "\(name) cut to \(size)")
            }
            for _ in 0..<100 {
                var changed = bytes
                changed[Int(random.next() % UInt64(bytes.count))] ^= UInt8(1 << (random.next() % 8))
                try scratch.write(name, changed)
                #expect(!problems(scratch).isEmpty)
            }
            try scratch.write(name, bytes)
        }
        #expect(problems(scratch) == [])
    }

    @Test("a page that was freed is a problem only for who needs it") func freed() throws {
        let scratch = try verifiable()
        try scratch.write("pages-1.img", [UInt8](repeating: 0, count: try scratch.directory.contents(of: "pages-1.img").count))
        let found = problems(scratch)
        #expect(!found.isEmpty && found.allSatisfy { $0.cause.contains("it was freed") })
    }

    @Test("CRIU's images have none, and say so") func none() throws {
        let golden = try Golden("simple/images", "").directory
        #expect(try FileChecksums(of: golden) == nil)
        #expect(try PageChecksums(of: 1, in: golden) == nil)
        let verification = try Verification.whole(golden)
        #expect(verification.problems().map(\.file) == ["checksums.img"])
        #expect(verification.count.unknownPages > 10)
    }
}
