import Cryptography
import Glibc
import Linux

/// An image file that is encrypted as a whole:
///
///     0   "SCKSEAL1"
///     8   which key image has the key (KeyImage.Place), 3 bytes of zeros
///     12  bytes of content in a segment, little-endian
///     16  a salt
///     48  segments, each the content sealed and its tag; only the last may be shorter, and may be empty
///     -4  CRC-32C of all before and of how long that is, 8 bytes: tells damage from a wrong key, and is all that can be looked at without a key
///
/// The key is the directory's, derived by the salt for the first 16 bytes and the file's name: a file in the place of another does not open.
/// A segment's nonce is its number, and whether it is the last: what is cut off, left out or moved is noticed.
enum SealedImage {
    static let magic = Array("SCKSEAL1".utf8)
    static let headSize = 48, segmentSize = 1 << 16, sumSize = 4
    static var leastSize: Int { headSize + SymmetricKey.overhead + sumSize }

    struct Head: Equatable, Sendable {
        let place: KeyImage.Place, salt: [UInt8]

        init(_ place: KeyImage.Place, salt: [UInt8]) { (self.place, self.salt) = (place, salt) }

        /// Nil for a file that is not sealed.
        init?(_ bytes: [UInt8], of name: String) throws(ImageError) {
            guard bytes.starts(with: SealedImage.magic) else { return nil }
            guard bytes.count >= SealedImage.headSize else { throw SealedImage.cut(name) }
            guard let place = KeyImage.Place(rawValue: bytes[8]) else { throw PageChecksums.damaged(name) }
            self.init(place, salt: Array(bytes[16..<48]))
            guard bytes.prefix(SealedImage.headSize).elementsEqual(self.bytes) else { throw PageChecksums.damaged(name) }
        }
        var fixed: [UInt8] { SealedImage.magic + [place.rawValue, 0, 0, 0] + little32(UInt32(SealedImage.segmentSize)) }
        var bytes: [UInt8] { fixed + salt }
        func key(_ directory: SymmetricKey, _ name: String) -> SymmetricKey { directory.derived(salt: salt, for: fixed + Array(SealedImage.canonical(name).utf8)) }
    }

    /// While it is written, inventory.img has another name.
    private static func canonical(_ name: String) -> String { ImageKind.named(name).map { $0.kind.name($0.number) } ?? name }
    private static func nonce(_ number: UInt64, isLast: Bool) -> [UInt8] { little64(number) + [0, 0, 0, isLast ? 1 : 0] }
    static func cut(_ name: String) -> ImageError { ImageError(name, "it is cut short", remedy: PageChecksums.remedy) }

    /// The last word of a file. Were it the checksum of what is before it and nothing else, all such files would have the same checksum.
    /// - Parameter before: the checksum of what is before it.
    static func end(behind before: UInt32, length: UInt64) -> [UInt8] { little32(Checksum.of(little64(length), after: before)) }

    // MARK: writing

    /// Makes a sealed file out of content that comes piece by piece.
    struct Sealer {
        private let key: SymmetricKey
        private var rest: [UInt8] = [], number: UInt64 = 0, sum: UInt32 = 0, length: UInt64 = 0, head: [UInt8]

        init(_ head: Head, _ directory: SymmetricKey, name: String) { (key, self.head) = (head.key(directory, name), head.bytes) }

        /// What can be written by now.
        mutating func take(_ content: [UInt8]) -> [UInt8] {
            rest += content
            var made = begin(), at = 0
            // The last is not known yet.
            while rest.count - at > segmentSize {
                made += seal(Array(rest[at..<(at + segmentSize)]), isLast: false)
                at += segmentSize
            }
            rest.removeFirst(at)
            count(made)
            return made
        }

        mutating func finish() -> [UInt8] {
            let made = begin() + seal(rest, isLast: true)
            count(made)
            return made + SealedImage.end(behind: sum, length: length)
        }

        private mutating func count(_ made: [UInt8]) { (sum, length) = (Checksum.of(made, after: sum), length + UInt64(made.count)) }

        private mutating func begin() -> [UInt8] {
            defer { head = [] }
            return head
        }
        private mutating func seal(_ content: [UInt8], isLast: Bool) -> [UInt8] {
            defer { number += 1 }
            return key.seal(content, nonce: nonce(number, isLast: isLast))
        }
    }

    // MARK: reading

    /// Gives the content, piece by piece.
    /// - Parameters:
    ///   - size: of the file.
    ///   - read: bytes of it at an offset; fewer where it ends.
    static func open(
        _ name: String, _ head: Head, _ directory: SymmetricKey, size: UInt64, read: (_ offset: UInt64, _ count: Int) throws(ImageError) -> [UInt8],
        give: ([UInt8]) throws(ImageError) -> Void
    ) throws(ImageError) {
        try checkSum(name, size: size, read: read)
        let key = head.key(directory, name), end = size - UInt64(sumSize)
        var at = UInt64(headSize), number: UInt64 = 0
        repeat {
            let sealed = try read(at, Int(min(UInt64(segmentSize + SymmetricKey.overhead), end - at)))
            at += UInt64(sealed.count)
            guard !sealed.isEmpty, let content = key.open(sealed, nonce: nonce(number, isLast: at == end)) else { throw foreign(name) }
            number += 1
            try give(content)
        } while at < end
    }

    /// Whether the file is as it was written, as far as can be told without a key.
    static func checkSum(_ name: String, size: UInt64, read: (_ offset: UInt64, _ count: Int) throws(ImageError) -> [UInt8]) throws(ImageError) {
        guard size >= UInt64(leastSize) else { throw cut(name) }
        var at: UInt64 = 0, sum: UInt32 = 0
        let end = size - UInt64(sumSize)
        while at < end {
            let piece = try read(at, Int(min(1 << 20, end - at)))
            if piece.isEmpty { throw cut(name) }
            sum = Checksum.of(piece, after: sum)
            at += UInt64(piece.count)
        }
        guard try read(end, sumSize) == Self.end(behind: sum, length: end) else { throw PageChecksums.damaged(name) }
    }

    /// The sum is right, the tag is not.
    static func foreign(_ name: String) -> ImageError {
        ImageError(name, "it does not belong here: it was sealed under another name, for another directory, or changed on purpose", remedy: PageChecksums.remedy)
    }
}

/// What regions of a pages file are sealed with: a key of that file alone, which goes with its pagemap. A region's nonce is its number.
struct RegionSeal: Equatable, Sendable {
    private let key: SymmetricKey

    /// - Parameter pagemap: the head of the pagemap that says where the pages belong.
    init(_ directory: SymmetricKey, _ pagemap: SealedImage.Head, pages name: String) { key = directory.derived(salt: pagemap.salt, for: Array("stasis pages ".utf8) + Array(name.utf8)) }

    func seal(_ content: PageBuffer, into result: PageBuffer, _ region: Int) { key.seal(content, into: result, nonce: Self.nonce(region)) }
    func open(_ sealed: PageBuffer, into result: PageBuffer, _ region: Int) -> Bool { key.open(sealed, into: result, nonce: Self.nonce(region)) }
    private static func nonce(_ region: Int) -> [UInt8] { little64(UInt64(region)) + [0, 0, 0, 0] }
}
