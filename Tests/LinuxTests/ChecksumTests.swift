import Glibc
import Linux
import Testing

@Suite("CRC-32C") struct ChecksumTests {
    /// RFC 3720, B.4, and the check value of the catalogue of CRCs.
    @Test("known sums", arguments: [
        (Array("123456789".utf8), 0xe306_9283), ([UInt8](repeating: 0, count: 32), 0x8a91_36aa), ([UInt8](repeating: 0xff, count: 32), 0x62a8_ab43),
        ([UInt8](0..<32), 0x46dd_794e), ([], 0),
    ] as [([UInt8], UInt32)]) func known(bytes: [UInt8], sum: UInt32) {
        #expect(Checksum.of(bytes) == sum)
        for cut in 0...bytes.count { #expect(Checksum.of(Array(bytes[cut...]), after: Checksum.of(Array(bytes[..<cut]))) == sum) }
    }

    @Test("of pages it is each page's own, however many there are", arguments: 0..<11) func pages(count: Int) throws {
        let bytes = (0..<count * 4096).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 11) }
        let each = (0..<count).map { Checksum.of(Array(bytes[($0 * 4096)..<(($0 + 1) * 4096)])) }
        let file = try FileDescriptor.memory("sums", flags: 0)
        try file.write(bytes + [1])
        #expect(try Checksum.ofPages(of: file, 0..<UInt64(count * 4096)) == each)
        #expect(try Checksum.ofPages(of: file, 0..<UInt64(1000 * 4096)) == each)
        let size = UInt64(bytes.count + 1)
        #expect(try Checksum.of(file, size: size) == (Checksum.of(bytes + [1]), size))
        #expect(try Checksum.of(file, size: size + 1, through: PageBuffer(4096)) == (Checksum.of(bytes + [1]), size), "where the file ends")
        #expect(try Checksum.of(file, size: size - 1) == (Checksum.of(bytes), size - 1))
    }
}
