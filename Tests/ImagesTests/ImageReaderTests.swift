import ImageMessages
@testable import Images
import Linux
import SwiftProtobuf
import Testing

@Suite("a large image") struct ImageReaderTests {
    /// fdinfo with entries of one length, as bytes of the file.
    private let count = 60_000
    private func bytes() throws -> [UInt8] {
        var bytes = ImageKind.named("fdinfo-2.img")!.kind.magic.bytes
        for number in 0..<count {
            var entry = FdinfoEntry()
            (entry.id, entry.flags, entry.type, entry.fd) = (UInt32(number) + 1_000_000, 0, .reg, UInt32(number) + 1_000_000)
            let message: [UInt8] = try entry.serializedBytes()
            bytes += little32(UInt32(message.count)) + message
        }
        return bytes
    }
    private func read(_ bytes: [UInt8]) throws(ImageError) -> [FdinfoEntry] {
        var reader = try ImageReader("fdinfo-2.img", bytes: bytes)
        let all = try reader.all(FdinfoEntry.self)
        try reader.finish()
        #expect(reader.entry == all.count)
        return all
    }

    @Test("is decoded in parts, every entry in its place") func whole() throws {
        let bytes = try bytes()
        #expect(bytes.count > 900_000)
        #expect(try read(bytes).map(\.fd) == (0..<UInt32(count)).map { $0 + 1_000_000 })
    }

    @Test("names the first damaged entry and its place in the file", arguments: [[3], [59_990], [40_000, 59_000], [10, 59_000]]) func damaged(entries: [Int]) throws {
        var bytes = try bytes()
        let size = (bytes.count - 8) / count
        for entry in entries { bytes[8 + entry * size + 4] = 0xff }  // no field has this tag
        let error = try #require(throws: ImageError.self) { _ = try read(bytes) }
        #expect(error.entry == entries[0] && error.offset == UInt64(8 + entries[0] * size), "\(error)")
    }

    @Test("that is cut short, or whose lengths are wrong, is told as a small one is") func cut() throws {
        let bytes = try bytes(), size = (bytes.count - 8) / count
        let cut = try #require(throws: ImageError.self) { _ = try read(Array(bytes.dropLast(3))) }
        #expect(cut.entry == count - 1, "\(cut)")
        var wrong = bytes
        wrong[8 + 50_000 * size + 2] = 0x7f
        let long = try #require(throws: ImageError.self) { _ = try read(wrong) }
        #expect(long.entry == 50_000 && "\(long)".contains("it claims"), "\(long)")
    }
}
