public import Cryptography
import Glibc
public import Linux
import Synchronization

/// Those for whom new images are encrypted; nobody: they are not.
public struct ImageRecipients: Sendable {
    public let recipients: [Recipient]
    public init(_ recipients: [Recipient] = []) { self.recipients = recipients }
    public static let nobody = ImageRecipients()
    public var isEmpty: Bool { recipients.isEmpty }

    /// Makes a key for the images that a dump writes into a directory, and writes the image that has it for them; nil for nobody.
    /// - Parameter pagesElsewhere: whether a page server takes the pages.
    public func seal(_ directory: FileDescriptor, pagesElsewhere: Bool = false) throws -> ImageSeal? { try make(directory, .dump, pagesElsewhere ? .pagesElsewhere : []) }
    /// The same for those of a page server.
    public func sealForPageServer(_ directory: FileDescriptor) throws -> ImageSeal? { try make(directory, .pageServer, []) }

    private func make(_ directory: FileDescriptor, _ place: KeyImage.Place, _ flags: KeyImage.Flags) throws -> ImageSeal? {
        if isEmpty { return nil }
        let (image, key) = try KeyImage.make(place, flags, for: recipients)
        let writer = try ImageWriter(directory: directory, name: place.name)
        try writer.appendRaw(image.bytes)
        try writer.finish(sync: false)
        return ImageSeal(place, key)
    }
}

/// What new images of a directory are sealed with.
public struct ImageSeal: Sendable {
    let place: KeyImage.Place, key: SymmetricKey
    /// The image with the key.
    public var keyImage: String { place.name }
    init(_ place: KeyImage.Place, _ key: SymmetricKey) { (self.place, self.key) = (place, key) }

    func head() -> SealedImage.Head { SealedImage.Head(place, salt: Random.bytes(32)) }
}

/// What encrypted images can be opened with.
public struct ImageSecrets: Sendable {
    public let secrets: [Secret]
    public init(_ secrets: [Secret] = []) { self.secrets = secrets }
    public static let none = ImageSecrets()
    public var isEmpty: Bool { secrets.isEmpty }

    /// Whether images for these can be read.
    public func fit(_ recipients: ImageRecipients) -> Bool { recipients.recipients.contains { recipient in secrets.contains { $0.belongs(to: recipient) } } }

    /// For another process of ours.
    public var bytes: [UInt8] { secrets.reduce(into: []) { $0.append(sized: $1.bytes) } }
    public init(bytes: [UInt8]) throws {
        var secrets = [Secret](), at = 0
        while let secret = bytes.sized(at: &at) { secrets.append(try Secret(secret)) }
        self.secrets = secrets
    }
}

/// The keys of one directory's images, each taken out of its image once.
final class DirectoryKeys: Sendable {
    let secrets: ImageSecrets
    private let state = Mutex<(isNeeded: Bool?, opened: [KeyImage.Place: SymmetricKey])>((nil, [:]))
    init(_ secrets: ImageSecrets) { self.secrets = secrets }

    /// Whether any image may be sealed. Looked for once: a tree has thousands of them.
    func areNeeded(in directory: ImageDirectory) -> Bool {
        if let known = state.withLock({ $0.isNeeded }) { return known }
        let found = [KeyImage.Place.dump, .pageServer].contains { directory.exists($0.name) }
        state.withLock { $0.isNeeded = found }
        return found
    }

    func key(_ place: KeyImage.Place, in directory: ImageDirectory) throws(ImageError) -> SymmetricKey {
        if let known = state.withLock({ $0.opened[place] }) { return known }
        guard directory.exists(place.name) else { throw Self.missing(place) }
        let key = try image(place, in: directory).open(secrets.secrets, place, in: (try? Files.link(directory.descriptor.procPath)) ?? "this directory")
        state.withLock { $0.opened[place] = key }
        return key
    }

    static func missing(_ place: KeyImage.Place) -> ImageError {
        ImageError(place.name, "it is missing, and without it nobody can read the encrypted images", remedy: PageChecksums.remedy, errno: Errno(ENOENT))
    }

    func image(_ place: KeyImage.Place, in directory: ImageDirectory) throws(ImageError) -> KeyImage {
        let (file, size) = try ImageReader.open(place.name, in: directory.descriptor)
        guard size <= 1 << 20 else { throw ImageError(place.name, "\(size) bytes are too many") }
        return try KeyImage(try file.bytes(Int(size), at: 0, named: place.name), place)
    }
}

extension ImageDirectory {
    /// What more images of a directory are sealed with; nil where they are not encrypted.
    public func sealForMore() throws(ImageError) -> ImageSeal? { isEncrypted ? ImageSeal(.dump, try keys.key(.dump, in: self)) : nil }

    /// Whether its images are encrypted, but for those that a page server may have.
    public var isEncrypted: Bool { exists(KeyImage.Place.dump.name) }

    /// A sealed image's key and head.
    struct Opened { let key: SymmetricKey, head: SealedImage.Head }

    /// An image as it was before it was sealed, if it was: then in memory.
    func opened(_ name: String) throws(ImageError) -> (file: FileDescriptor, size: UInt64, Opened?) {
        let (file, size) = try ImageReader.open(name, in: descriptor)
        guard keys.areNeeded(in: self) else { return (file, size, nil) }
        guard let head = try SealedImage.Head(try file.bytes(SealedImage.headSize, at: 0, named: name), of: name) else {
            if isEncrypted, !isService(name), try !mayBeOfPageServer(name) {
                throw ImageError(name, "it is not encrypted, as the others are: somebody has put it there", remedy: PageChecksums.remedy)
            }
            return (file, size, nil)
        }
        if head.place == .pageServer, try !mayBeOfPageServer(name) { throw SealedImage.foreign(name) }
        let key = try keys.key(head.place, in: self)
        let content: FileDescriptor
        do throws(SyscallError) { content = try FileDescriptor.memory(name) } catch { throw ImageError(name, "there is no memory for it", error) }
        var length: UInt64 = 0
        try SealedImage.open(name, head, key, size: size, read: { (offset, count) throws(ImageError) in try file.bytes(count, at: offset, named: name) }) { (piece) throws(ImageError) in
            do throws(SyscallError) { try content.write(piece) } catch { throw ImageError(name, "there is no memory for it", error) }
            length += UInt64(piece.count)
        }
        return (content, length, Opened(key: key, head: head))
    }

    /// Statistics.
    private func isService(_ name: String) -> Bool {
        if case .service = ImageKind.named(name)?.kind.magic { return true }
        return false
    }

    /// Whether a page server may have written it: it says whose pages it has, and the dump had one.
    private func mayBeOfPageServer(_ name: String) throws(ImageError) -> Bool {
        guard let kind = ImageKind.named(name)?.kind, kind.layout == .pagemap || kind.prefix == ImageFile.pageChecksums.kind.prefix else { return false }
        guard isEncrypted else { return true }
        guard try keys.image(.dump, in: self).flags.contains(.pagesElsewhere) else { return false }
        // Whoever has changed the flag has no key.
        _ = try keys.key(.dump, in: self)
        return true
    }
}

extension ImageDirectory {
    /// Whether an image is sealed; throws where it is damaged, as far as that can be seen without a key.
    func isSealedWell(_ name: String) throws(ImageError) -> Bool {
        for place in [KeyImage.Place.dump, .pageServer] where place.name == name {
            _ = try keys.image(place, in: self)
            return true
        }
        let (file, size) = try ImageReader.open(name, in: descriptor)
        guard let head = try SealedImage.Head(try file.bytes(SealedImage.headSize, at: 0, named: name), of: name) else { return false }
        guard exists(head.place.name) else { throw DirectoryKeys.missing(head.place) }
        try SealedImage.checkSum(name, size: size) { (offset, count) throws(ImageError) in try file.bytes(count, at: offset, named: name) }
        return true
    }
}
