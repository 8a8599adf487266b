import Linux
public import SwiftProtobuf

/// How a file begins (format 1.2).
public enum ImageMagic: Hashable, Sendable {
    public static let common: UInt32 = 0x5456_4319
    public static let service: UInt32 = 0x5510_5940
    /// Raw content from the first byte.
    case none
    /// The type's magic alone: inventory.img.
    case plain(UInt32)
    /// The common magic, then the type's.
    case image(UInt32)
    /// The service magic, then the type's: statistics, irmap cache.
    case service(UInt32)

    /// The word before the type's own magic, in images that have one.
    var first: UInt32? {
        switch self {
        case .none, .plain: nil
        case .image: Self.common
        case .service: Self.service
        }
    }

    /// The type's magic.
    var own: UInt32? {
        switch self {
        case .none: nil
        case .plain(let magic), .image(let magic), .service(let magic): magic
        }
    }

    public var bytes: [UInt8] {
        switch self {
        case .none: []
        case .plain(let magic): little32(magic)
        case .image(let magic): little32(Self.common) + little32(magic)
        case .service(let magic): little32(Self.service) + little32(magic)
        }
    }
}

/// What follows the magic.
public enum ImageLayout: Hashable, Sendable {
    /// One entry.
    case single
    /// Entries to the end of the file.
    case sequence
    /// A `pagemap_head`, then entries to the end of the file.
    case pagemap
    /// Entries with bytes after them; the functions of ImageDirectory+Payloads read them.
    case payload
    /// No entries.
    case raw
}

/// One kind of image file: what it is called and what is in it. The table is ImageKind+Table.swift.
public struct ImageKind: Sendable {
    public enum Number: Hashable, Sendable { case none, decimal, hexadecimal }
    /// The name before and after the number: "core-" and ".img".
    public let prefix: String
    public let suffix: String
    public let number: Number
    public let magic: ImageMagic
    public let layout: ImageLayout
    /// The entries' type; nil for raw files.
    public let message: (any Message.Type)?

    /// - Parameter template: as in files.tsv: "core-%u.img", "ghost-file-%x.img".
    init(_ template: String, _ magic: ImageMagic, _ layout: ImageLayout, _ message: (any Message.Type)?) {
        if let percent = template.firstIndex(of: "%") {
            prefix = String(template[..<percent])
            let conversion = template[percent...].drop { $0 == "%" || $0 == "l" }
            number = conversion.first == "x" ? .hexadecimal : .decimal
            suffix = String(conversion.dropFirst())
        } else {
            prefix = template
            suffix = ""
            number = .none
        }
        self.magic = magic
        self.layout = layout
        self.message = message
    }

    /// The file's name; `number` is left out where the kind has none.
    public func name(_ number: UInt64 = 0) -> String {
        switch self.number {
        case .none: prefix
        case .decimal: prefix + String(number) + suffix
        case .hexadecimal: prefix + String(number, radix: 16) + suffix
        }
    }

    /// By the name of kinds without a number, by the part before the number of others (some share that).
    private static let byPrefix: [Substring: [ImageKind]] = Dictionary(grouping: all) { $0.prefix[...] }

    /// The kind and number a file name stands for, nil for one that is not an image's. An image being written may end in ".tmp".
    public static func named(_ written: String) -> (kind: ImageKind, number: UInt64)? {
        let name = written.hasSuffix(".img.tmp") ? String(written.dropLast(4)) : written
        if let kind = byPrefix[name[...]]?.first, kind.number == .none { return (kind, 0) }
        guard let dash = name.utf8.lastIndex(of: UInt8(ascii: "-")) else { return nil }
        let afterDash = name.index(after: dash)
        for kind in byPrefix[name[..<afterDash]] ?? [] where kind.number != .none && name.hasSuffix(kind.suffix) {
            let digits = name[afterDash...].dropLast(kind.suffix.count)
            guard let number = UInt64(digits, radix: kind.number == .decimal ? 10 : 16), kind.name(number) == name else { continue }
            return (kind, number)
        }
        return nil
    }
}

/// A kind whose entries' type the compiler knows: `directory.single(.core, pid)` is a CoreEntry.
public struct ImageFile<Entry: Message>: Sendable {
    public let kind: ImageKind
    init(_ template: String, _ magic: ImageMagic, _ layout: ImageLayout) { kind = ImageKind(template, magic, layout, Entry.self) }
    public func name(_ number: some BinaryInteger) -> String { kind.name(UInt64(truncatingIfNeeded: number)) }
    public var name: String { kind.name() }
}
