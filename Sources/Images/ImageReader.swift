import Glibc
public import ImageMessages
import Linux
public import SwiftProtobuf

/// Bytes of an image file outside its messages: the queued data of a pipe, the content of a ghost file. Large ones stay in the file.
public struct ImagePayload: Hashable, Sendable {
    public var file: String
    /// Bytes from the start of the file.
    public var range: Range<UInt64>
    public var count: UInt64 { range.upperBound - range.lowerBound }
    public init(file: String, range: Range<UInt64>) { (self.file, self.range) = (file, range) }
}

/// An entry and the bytes that follow it.
public struct EntryWithPayload<Entry: Sendable>: Sendable {
    public var entry: Entry
    public var payload: ImagePayload
}

/// One image file behind its magic, taken entry by entry. Nothing the file says is believed before it was held against the
/// file's size, and no more than `largestEntry` bytes are allocated for an entry.
public struct ImageReader: Sendable {
    /// Longer than any entry in practice: 65,530 mappings make an mm of 5 MB.
    public static let largestEntry: UInt64 = 256 << 20
    /// Bytes from which threads are worth their making.
    private static let largePart: UInt64 = 256 << 10
    private static let windowSize: UInt64 = 64 << 10

    public let name: String
    /// Size of the file in bytes.
    public let size: UInt64
    /// Where the next entry begins.
    public private(set) var offset: UInt64 = 0
    /// Number of the next entry, from 0.
    public private(set) var entry = 0

    private let file: FileDescriptor?
    /// Of an image that is sealed.
    let seal: ImageDirectory.Opened?
    private var window: [UInt8]
    private var windowStart: UInt64 = 0
    /// Where reading ends: the end of the file, or of a part of it.
    private var end: UInt64

    /// Opens an image and checks its magic. What it holds follows from its name.
    public init(_ name: String, in directory: ImageDirectory) throws(ImageError) {
        (self.name, window) = (name, [])
        (file, size, seal) = try directory.opened(name)
        end = size
        try readMagic()
    }

    /// An image in memory.
    public init(_ name: String, bytes: [UInt8]) throws(ImageError) {
        (self.name, window, file, seal, size, end) = (name, bytes, nil, nil, UInt64(bytes.count), UInt64(bytes.count))
        try readMagic()
    }

    /// A regular file as it is, and its size. O_NONBLOCK, because a FIFO planted under the name must not hang us.
    static func open(_ name: String, in directory: FileDescriptor) throws(ImageError) -> (FileDescriptor, UInt64) {
        let file: FileDescriptor, status: FileStatus
        do throws(SyscallError) {
            file = try FileDescriptor.open(name, O_RDONLY | O_NONBLOCK | O_NOCTTY, at: directory.number)
            status = try file.status()
        } catch { throw ImageError(name, "it can't be opened", error) }
        guard status.type == S_IFREG, let size = UInt64(exactly: status.size) else { throw ImageError(name, "it is not a regular file") }
        return (file, size)
    }

    public var isAtEnd: Bool { offset == end }
    public var remaining: UInt64 { end - offset }
    /// Where the next byte lies in the file, and how many are left.
    public var position: (offset: Int, left: Int) { (Int(offset), Int(remaining)) }

    /// The next entry; nil at the end of the file.
    public mutating func next<M: Message>(_ type: M.Type) throws(ImageError) -> M? { isAtEnd ? nil : try message(type, plain: nil) }

    /// The next entry of a pagemap, of which there may be very many.
    public mutating func next(_ type: PagemapEntry.Type) throws(ImageError) -> PagemapEntry? { isAtEnd ? nil : try message(type, plain: PagemapEntry.init(plain:)) }

    private mutating func message<M: Message>(_ type: M.Type, plain: PlainEntries.Decoder<M>?) throws(ImageError) -> M {
        let count = try length(), at = try bring(offset + 4..<offset + 4 + count), bytes = window[at..<at + Int(count)]
        let message = if let found = plain?(bytes) { found } else { try decode(Array(bytes), as: type) }
        offset += 4 + count
        entry += 1
        return message
    }

    private func decode<M: Message>(_ bytes: [UInt8], as type: M.Type) throws(ImageError) -> M {
        var options = BinaryDecodingOptions()
        options.messageDepthLimit = 512  // directories of cgroups nest
        do { return try M(serializedBytes: bytes, extensions: nil, partial: false, options: options) } catch {
            throw damaged("it can't be decoded as \(M.protoMessageName): \(Self.words(for: error))")
        }
    }

    /// The next entry, which must be there.
    public mutating func single<M: Message>(_ type: M.Type) throws(ImageError) -> M {
        guard let message = try next(type) else {
            throw entry == 0 ? ImageError(name, "it has no entry") : damaged("the file ends where a \(M.protoMessageName) is needed")
        }
        return message
    }

    /// Size in bytes of the next entry, which must be there.
    private mutating func length() throws(ImageError) -> UInt64 {
        guard remaining >= 4 else { throw damaged("the file ends within a length") }
        let count = UInt64(try word(at: offset))
        guard count <= remaining - 4 else { throw damaged("it claims \(count) bytes, the file has \(remaining - 4) left") }
        guard count <= Self.largestEntry else { throw damaged("\(count) bytes are more than any entry has") }
        return count
    }

    /// All entries up to the end of the file. Those of a large one are decoded side by side.
    public mutating func all<M: Message>(_ type: M.Type) throws(ImageError) -> [M] {
        let parts = remaining > Self.largePart ? parts() : []
        if parts.count < 2 { return try sequence(type) }
        var found = [M]()
        for part in Workers.map(parts, { part in
            var part = part
            return Result { () throws(ImageError) in try part.sequence(type) }
        }) { found += try part.get() }
        (offset, entry) = (end, entry + found.count)
        return found
    }

    private mutating func sequence<M: Message>(_ type: M.Type) throws(ImageError) -> [M] {
        let plain = PlainEntries.decoder(of: type)
        var found = [M]()
        while !isAtEnd { found.append(try message(type, plain: plain)) }
        return found
    }

    /// What is left in as many parts as there are CPUs, cut between entries: only lengths are looked at. One where they are wrong.
    private func parts() -> [ImageReader] {
        let share = max(Self.largePart / 2, remaining / UInt64(Workers.usual))
        var cut = [ImageReader](), rest = self, part = self
        while !rest.isAtEnd {
            guard let count = try? rest.length() else { return [self] }
            rest.offset += 4 + count
            rest.entry += 1
            if rest.isAtEnd || rest.offset - part.offset >= share {
                part.end = rest.offset
                cut.append(part)
                part = rest
            }
        }
        return cut
    }

    /// Steps over the `count` bytes that follow an entry, and over zeros up to a multiple of `alignment` after them.
    public mutating func payloadRange(_ count: UInt64, paddedTo alignment: UInt64 = 1, of field: String? = nil) throws(ImageError) -> ImagePayload {
        let padding = (alignment - count % alignment) % alignment
        guard count <= remaining, padding <= remaining - count else {
            throw ImageError(name, entry: max(entry - 1, 0), field: field, offset: offset, "its payload of \(count) bytes is cut short: \(remaining) are left")
        }
        let start = offset
        offset += count + padding
        return ImagePayload(file: name, range: start..<start + count)
    }

    /// The `count` bytes that follow an entry.
    public mutating func payload(_ count: UInt64) throws(ImageError) -> [UInt8] {
        guard count <= Self.largestEntry else { throw damaged("a payload of \(count) bytes is too big to be read at once") }
        return try bytes(in: try payloadRange(count).range)
    }

    /// All that is left, as payload.
    public mutating func rest() -> ImagePayload {
        defer { offset = end }
        return ImagePayload(file: name, range: offset..<end)
    }

    /// Fails unless everything has been read.
    public func finish() throws(ImageError) {
        if !isAtEnd { throw damaged("\(remaining) bytes follow the last entry") }
    }

    /// Bytes of the file. The range must lie inside it.
    mutating func bytes(in range: Range<UInt64>) throws(ImageError) -> [UInt8] {
        let start = try bring(range)
        return Array(window[start..<start + range.count])
    }

    /// Makes the window hold these bytes of the file; answers where in it they begin.
    private mutating func bring(_ range: Range<UInt64>) throws(ImageError) -> Int {
        if range.lowerBound < windowStart || range.upperBound > windowStart + UInt64(window.count) {
            let count = min(max(range.upperBound - range.lowerBound, Self.windowSize), end - range.lowerBound)
            window = try file?.bytes(Int(count), at: range.lowerBound, named: name) ?? []
            windowStart = range.lowerBound
            guard range.upperBound <= windowStart + UInt64(window.count) else { throw damaged("the file became shorter while it was read") }
        }
        return Int(range.lowerBound - windowStart)
    }

    private mutating func word(at place: UInt64) throws(ImageError) -> UInt32 {
        let at = try bring(place..<place + 4)
        return UInt32(window[at]) | UInt32(window[at + 1]) << 8 | UInt32(window[at + 2]) << 16 | UInt32(window[at + 3]) << 24
    }

    /// Version 1 images have the type magic alone; the first word tells which form it is.
    private mutating func readMagic() throws(ImageError) {
        guard let magic = ImageKind.named(name)?.kind.magic, let own = magic.own else { throw ImageError(name, "this is no image's name") }
        guard size >= 4 else { throw ImageError(name, "it has \(size) bytes, too few for its magic") }
        var found = try word(at: 0)
        offset = 4
        if found == magic.first, found != own {
            guard size >= 8 else { throw ImageError(name, "it has \(size) bytes, too few for its magic") }
            found = try word(at: 4)
            offset = 8
        }
        guard found == own else {
            if let head = try? SealedImage.Head(try bytes(in: 0..<min(size, UInt64(SealedImage.headSize))), of: name) { throw DirectoryKeys.missing(head.place) }
            let found = "0x\(String(found, radix: 16)) where 0x\(String(own, radix: 16)) belongs"
            throw ImageError(name, "wrong magic, \(found): this is no image of this kind")
        }
    }

    private func damaged(_ problem: String) -> ImageError { ImageError(name, entry: entry, offset: offset, problem) }

    private static func words(for error: any Error) -> String {
        switch error as? BinaryDecodingError {
        case .truncated: "a field runs past the end of the entry"
        case .invalidUTF8: "a text is not UTF-8"
        case .missingRequiredFields: "a required field is missing or has an unknown value"
        case .messageDepthLimit: "messages are nested too deeply"
        default: "its bytes are no message"
        }
    }
}

extension FileDescriptor {
    /// `count` bytes from `offset` on; fewer at the end of the file.
    func bytes(_ count: Int, at offset: UInt64, named name: String) throws(ImageError) -> [UInt8] {
        do throws(SyscallError) {
            var bytes = try read(count, at: Int(offset))
            while bytes.count < count {
                let more = try read(count - bytes.count, at: Int(offset) + bytes.count)
                if more.isEmpty { break }
                bytes += more
            }
            return bytes
        } catch { throw ImageError(name, "it can't be read", error) }
    }
}
