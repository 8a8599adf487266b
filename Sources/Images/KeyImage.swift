import Cryptography
import Linux

/// encryption.img: the key of a directory, wrapped for each of those who may read it:
///
///     0   "SCKKEYS1"
///     8   flags, how many follow: little-endian words of 32 bits
///     16  each behind its length, such a word: a WrappedKey
///     -4  CRC-32C of all before and of how long that is, as in a SealedImage
///
/// It tells who they are, by names that anybody can read. What is wrapped goes together with the magic, the place and the flags: who changes
/// these has no key.
struct KeyImage: Equatable, Sendable {
    /// A page server's directory and that of its dump become one: each has a key of its own.
    enum Place: UInt8, Sendable {
        case dump = 0, pageServer
        var name: String { self == .dump ? ImageKind.encryption.name() : ImageKind.pagesEncryption.name() }
    }
    struct Flags: OptionSet, Sendable {
        let rawValue: UInt32
        /// A page server has the pages, with or without encryption.
        static let pagesElsewhere = Flags(rawValue: 1)
    }
    let flags: Flags
    private(set) var keys: [WrappedKey]
    private static let magic = Array("SCKKEYS1".utf8)

    /// A new key for these.
    static func make(_ place: Place, _ flags: Flags, for recipients: [Recipient]) throws -> (image: KeyImage, key: SymmetricKey) {
        let key = SymmetricKey(), context = context(place, flags)
        return (KeyImage(flags: flags, keys: try recipients.map { try $0.wrap(key, context: context) }), key)
    }
    private init(flags: Flags, keys: [WrappedKey]) { (self.flags, self.keys) = (flags, keys) }

    private static func context(_ place: Place, _ flags: Flags) -> [UInt8] { magic + [place.rawValue] + little32(flags.rawValue) }

    var bytes: [UInt8] {
        var bytes = Self.magic + little32(flags.rawValue) + little32(UInt32(keys.count))
        for key in keys { bytes.append(sized: key.bytes) }
        return bytes + Self.end(bytes)
    }

    private static func end(_ bytes: [UInt8]) -> [UInt8] { SealedImage.end(behind: Checksum.of(bytes), length: UInt64(bytes.count)) }

    init(_ bytes: [UInt8], _ place: Place) throws(ImageError) {
        let content = Array(bytes.dropLast(4))
        guard content.count >= 16, bytes.starts(with: Self.magic) else { throw ImageError(place.name, "it has no keys of encrypted images") }
        guard Array(bytes.suffix(4)) == Self.end(content) else { throw PageChecksums.damaged(place.name) }
        self.init(flags: Flags(rawValue: bytes.word(at: 8)), keys: [])
        var at = 16
        for _ in 0..<bytes.word(UInt32.self, at: 12) {
            guard let key = content.sized(at: &at).flatMap(WrappedKey.init(bytes:)) else { throw PageChecksums.damaged(place.name) }
            keys.append(key)
        }
        guard at == content.count else { throw PageChecksums.damaged(place.name) }
    }

    /// The key, by the first secret that one of them is for.
    /// - Parameter directory: its name.
    func open(_ secrets: [Secret], _ place: Place, in directory: String) throws(ImageError) -> SymmetricKey {
        for secret in secrets {
            for wrapped in keys where secret.opens(wrapped) {
                guard let key = secret.unwrap(wrapped, context: Self.context(place, flags)) else { throw PageChecksums.damaged(place.name) }
                return key
            }
        }
        let whom = keys.map(\.name).joined(separator: ", ")
        throw ImageError(
            place.name, "the \(place == .dump ? "images" : "pages") in \(directory) are encrypted for \(whom); " + (secrets.isEmpty ? "no key was given" : "\(secrets.count == 1 ? "the key that was given is" : "the keys that were given are") none of theirs"),
            remedy: "--decrypt FILE with that key file, or the private key of that certificate")
    }
}
