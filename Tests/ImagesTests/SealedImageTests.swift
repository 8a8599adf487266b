@testable import Cryptography
import Foundation
import ImageMessages
@testable import Images
import Linux
import Testing

@Suite("encrypted images") struct SealedImageTests {
    private static let key = SymmetricKey([UInt8](repeating: 7, count: 32))!
    private static func head() -> SealedImage.Head { SealedImage.Head(.dump, salt: Random.bytes(32)) }

    private func sealed(_ content: [UInt8], _ name: String = "core-1.img", by pieces: Int = 1 << 30) -> [UInt8] {
        var sealer = SealedImage.Sealer(Self.head(), Self.key, name: name), bytes = [UInt8](), at = 0
        while at < content.count {
            bytes += sealer.take(Array(content[at..<min(at + pieces, content.count)]))
            at += pieces
        }
        return bytes + sealer.finish()
    }
    private func opened(_ bytes: [UInt8], _ name: String = "core-1.img", _ key: SymmetricKey = key) throws(ImageError) -> [UInt8] {
        guard let head = try SealedImage.Head(Array(bytes.prefix(SealedImage.headSize)), of: name) else { throw ImageError(name, "it is not sealed") }
        var content = [UInt8]()
        try SealedImage.open(name, head, key, size: UInt64(bytes.count), read: { offset, count in Array(bytes[Int(offset)..<min(bytes.count, Int(offset) + count)]) }) { content += $0 }
        return content
    }

    @Test("hold what was put in, whatever its length", arguments: [0, 1, 65535, 65536, 65537, 131072, 300_000]) func roundTrip(length: Int) throws {
        let content = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
        for pieces in [1 << 30, 65536, 4099] { #expect(try opened(sealed(content, by: pieces)) == content) }
        #expect(sealed(content) != sealed(content))
        #expect(try opened(sealed(content, "inventory.img.tmp"), "inventory.img") == content)
    }

    @Test("are refused when a byte, a segment, the name or the key is another") func changed() throws {
        let content = [UInt8](repeating: 0x5a, count: 200_000), bytes = sealed(content)
        var random = Seeded(state: 5)
        for place in Array(0..<64) + (0..<100).map({ _ in Int(random.next() % UInt64(bytes.count)) }) + Array((bytes.count - 20)..<bytes.count) {
            var changed = bytes
            changed[place] ^= UInt8(1 << (random.next() % 8))
            #expect(throws: ImageError.self, "byte \(place)") { try opened(changed) }
            // Somebody who makes the outer sum right, too.
            if (48..<(bytes.count - 4)).contains(place) { #expect(throws: ImageError.self, "byte \(place)") { try opened(summed(changed)) } }
        }
        let segment = SealedImage.segmentSize + SymmetricKey.overhead
        var swapped = bytes, shorter = bytes, cut = bytes, doubled = bytes
        swapped.replaceSubrange(48..<(48 + 2 * segment), with: bytes[(48 + segment)..<(48 + 2 * segment)] + bytes[48..<(48 + segment)])
        shorter.removeSubrange((48 + segment)..<(48 + 2 * segment))
        cut.removeSubrange((48 + 3 * segment)..<(bytes.count - 4))
        doubled.insert(contentsOf: bytes[48..<(48 + segment)], at: 48)
        for changed in [swapped, shorter, cut, doubled] { #expect { try opened(summed(changed)) } throws: { "\($0)".contains("does not belong here") } }
        for length in [0, 7, 8, 47, 48, 67, 68, bytes.count - 1, bytes.count - 16] { #expect(throws: ImageError.self) { try opened(Array(bytes[..<length])) } }
        #expect(throws: ImageError.self) { try opened(bytes, "core-2.img") }
        #expect(throws: ImageError.self) { try opened(bytes, "core-1.img", SymmetricKey()) }
    }
    private func summed(_ bytes: [UInt8]) -> [UInt8] { bytes.dropLast(4) + SealedImage.end(behind: Checksum.of(Array(bytes.dropLast(4))), length: UInt64(bytes.count - 4)) }

    @Test("a key image that lies is refused") func keyImage() throws {
        let file = NSTemporaryDirectory() + "stasis-key-\(UUID().uuidString)"
        try Data((0..<32).map { UInt8($0) }).write(to: URL(filePath: file))
        defer { try? FileManager.default.removeItem(atPath: file) }
        let secret = try Secret(file: file), (image, key) = try KeyImage.make(.dump, .pagesElsewhere, for: [try Recipient(file: file)])
        #expect(try KeyImage(image.bytes, .dump).open([secret], .dump, in: "") == key)
        #expect { try KeyImage(image.bytes, .dump).open([], .dump, in: "") } throws: { "\($0)".contains("encrypted for key file") && "\($0)".contains("no key was given") && "\($0)".contains("--decrypt") }
        // Another place, and other flags.
        #expect(throws: ImageError.self) { try KeyImage(image.bytes, .pageServer).open([secret], .pageServer, in: "") }
        for place in image.bytes.indices {
            var changed = image.bytes
            changed[place] ^= 4
            #expect(throws: ImageError.self) { try KeyImage(changed, .dump) }
            if place < 12 { #expect(throws: ImageError.self) { try KeyImage(summed(changed), .dump).open([secret], .dump, in: "") } }
            _ = try? KeyImage(summed(changed), .dump)
        }
        for length in image.bytes.indices { #expect(throws: ImageError.self) { try KeyImage(Array(image.bytes[..<length]), .dump) } }
    }
}

/// A dump of CRIU's, encrypted.
@Suite("encrypted directories") struct SealedDirectoryTests {
    private final class Locked {
        let scratch: Scratch, secrets: ImageSecrets, file: String
        var directory: ImageDirectory { get throws { try ImageDirectory(scratch.directory.descriptor, secrets) } }

        init(_ name: String, _ compression: Compression? = nil) throws {
            let golden = Golden("\(name)/images", "")
            scratch = try Scratch(golden)
            file = scratch.path + "-key"
            try Data(Random.bytes(32)).write(to: URL(filePath: file))
            secrets = ImageSecrets([try Secret(file: file)])
            let plain = scratch.directory, workers = Workers(2), buffer = PageBuffer(5 * 4096)
            let seal = try #require(try ImageRecipients([try Recipient(file: file)]).seal(plain.descriptor))
            for name in try golden.directory.names() {
                guard let kind = ImageKind.named(name)?.kind, kind.magic != .none, name != "stats-dump" else { continue }
                if let (file, number) = ImageFile.pagemap(named: name) {
                    let pagemap = try golden.directory.checkedPagemap(file, number), source = try golden.directory.open(pagemap.pagesFile)
                    var reader = try golden.directory.reader(name)
                    let pages = try NewPagesFile(try reader.single(PagemapHead.self).pagesID, pagemap: name, in: plain.descriptor, workers, compression, seal)
                    pages.entries = try reader.all(PagemapEntry.self)
                    var at: UInt64 = 0
                    while at < pagemap.bytesInPagesFile {
                        try buffer.fill(from: source, at: at, Int(pagemap.bytesInPagesFile - at))
                        try pages.append(buffer)
                        at += UInt64(buffer.count)
                    }
                    try pages.isWhole()
                    try workers.finish()
                    try pages.writeImages(in: plain.descriptor)
                    try scratch.remove(pagemap.pagesFile)
                    continue
                }
                if name == "inventory.img" { try scratch.remove(name) }
                let writer = try ImageWriter(directory: plain.descriptor, name: name == "inventory.img" ? name + ".tmp" : name, seal)
                try writer.appendRaw(Array(try golden.directory.contents(of: name).dropFirst(kind.magic.bytes.count)))
                try writer.finish(sync: false)
            }
            try FileChecksums.write(in: plain.descriptor, seal)
            try Files.rename("inventory.img.tmp", to: "inventory.img", in: plain.descriptor.number)
        }
        deinit { try? FileManager.default.removeItem(atPath: file) }
    }

    private func content(_ directory: ImageDirectory) throws -> [UInt64: [UInt8]] {
        let chain = try PageChain(directory)
        var found: [UInt64: [UInt8]] = [:]
        for name in try directory.names() {
            guard let (file, number) = ImageFile.pagemap(named: name) else { continue }
            let image = try PageImage(chain, file, number), readers = image.files.map { PagesReader($0) }
            for run in image.runs { found[number << 48 ^ run.range.lowerBound] = try readers[run.file].bytes(run.offset..<(run.offset + UInt64(run.range.count))) }
        }
        return found
    }

    @Test("are read as if they were not", arguments: ["simple", "memory", "tree"], [nil, .lz4] as [Compression?]) func roundTrip(name: String, compression: Compression?) throws {
        let locked = try Locked(name, compression), golden = try Golden("\(name)/images", "").directory
        let directory = try locked.directory, verification = try Verification.whole(directory)
        #expect(try content(directory) == content(golden))
        #expect(try ImageSet(directory).problems() == [])
        #expect(verification.problems() == [] && verification.count.pages > 10)
        // Nothing of it can be read.
        for name in try golden.names() where ImageKind.named(name)?.kind.magic != ImageMagic.none && name != "stats-dump" {
            let bytes = try Data(contentsOf: URL(filePath: "\(locked.scratch.path)/\(name)"))
            #expect(bytes.starts(with: SealedImage.magic), "\(name)")
        }
    }

    @Test("without a key, or with another one, say for whom they are") func withoutKey() throws {
        let locked = try Locked("simple")
        #expect { try ImageDirectory(locked.scratch.directory.descriptor).inventory() } throws: { "\($0)".contains("encrypted for key file") && "\($0)".contains("no key was given") }
        let other = try Locked("simple")
        #expect { try ImageDirectory(locked.scratch.directory.descriptor, other.secrets).inventory() } throws: { "\($0)".contains("none of theirs") }
        #expect(try Verification.sealed(ImageDirectory(locked.scratch.directory.descriptor)).problems() == [])
    }

    @Test("a file that is damaged, missing, another's, or not encrypted is named") func damaged() throws {
        let locked = try Locked("simple"), scratch = locked.scratch, stranger = try Locked("simple")
        func bytes(_ name: String, _ path: String = scratch.path) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(filePath: "\(path)/\(name)"))) }
        func findings() throws -> [ImageError] {
            do { return try Verification.whole(try locked.directory).problems() } catch let error as ImageError { return [error] }
        }
        for name in try scratch.directory.names() where name.hasSuffix(".img") && name != "pages-1.img" && ImageKind.named(name)?.kind.prefix != "stats-" {
            let original = try bytes(name)
            var flipped = original
            flipped[original.count / 2] ^= 1
            for (changed, what) in [(flipped, "flipped"), (Array(original.dropLast(5)), "cut"), (try bytes(name, stranger.scratch.path), "another's")] {
                try scratch.write(name, changed)
                let found = try findings()
                #expect(found.contains { $0.file == name } || name == "encryption.img" && what == "another's" && !found.isEmpty, "\(name) \(what): \(found)")
                // What is outside can be seen without a key.
                if what != "another's", !name.hasPrefix("sealed-") {
                    #expect(try Verification.sealed(ImageDirectory(scratch.directory.descriptor)).problems().contains { $0.file == name }, "\(name) \(what)")
                }
            }
            try scratch.remove(name)
            #expect(!(try findings()).isEmpty, "\(name) is missing")
            try scratch.write(name, original)
        }
        #expect(try findings() == [])
        // One in the place of another.
        let cores = try scratch.directory.names().filter { $0.hasPrefix("core-") }, ids = try bytes("seccomp.img")
        let core = try bytes(cores[0])
        try scratch.write(cores[0], ids)
        #expect { try locked.directory.single(cores[0], CoreEntry.self) } throws: { "\($0)".contains("does not belong here") }
        // A plain one.
        try scratch.write(cores[0], [UInt8](try Data(contentsOf: URL(filePath: "\(Golden("simple/images", "").images)/\(cores[0])"))))
        #expect { try locked.directory.single(cores[0], CoreEntry.self) } throws: { "\($0)".contains("it is not encrypted, as the others are") }
        try scratch.write(cores[0], core)
        #expect(try findings() == [])
        // Pages of a page server, where the dump had none.
        let seal = try #require(try ImageRecipients([try Recipient(file: locked.file)]).sealForPageServer(scratch.directory.descriptor)), pagemap = "pagemap-28540.img"
        var head = PagemapHead()
        head.pagesID = 1
        for (seal, words) in [(seal, "does not belong here"), (nil, "it is not encrypted, as the others are")] {
            let writer = try ImageWriter(directory: scratch.directory.descriptor, name: pagemap, seal)
            try writer.append(head)
            try writer.finish(sync: false)
            #expect { try locked.directory.checkedPagemap(.pagemap, 28540) } throws: { "\($0)".contains(words) }
        }
    }
}
