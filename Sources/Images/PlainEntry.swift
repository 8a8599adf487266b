import ImageMessages
import SwiftProtobuf

/// Messages of which an image may hold tens of thousands, read from their bytes without the general decoder, which takes several times as long.
/// Their code knows the fields that images usually have, and leaves everything else, errors too, to that decoder.
protocol PlainEntry: Message {
    /// The message in these bytes; nil where they hold something unknown, or are damaged.
    init?(plain bytes: ArraySlice<UInt8>)
}

enum PlainEntries {
    typealias Decoder<Entry> = (ArraySlice<UInt8>) -> Entry?

    /// What reads entries of this type so, if something does.
    static func decoder<Entry: Message>(of type: Entry.Type) -> Decoder<Entry>? {
        func own<Plain: PlainEntry>(_: Plain.Type) -> Decoder<Entry>? {
            let decoder: Decoder<Plain> = Plain.init(plain:)
            return decoder as Any as? Decoder<Entry>
        }
        return switch type {
        case is FileEntry.Type: own(FileEntry.self)
        case is FdinfoEntry.Type: own(FdinfoEntry.self)
        case is PagemapEntry.Type: own(PagemapEntry.self)
        default: nil
        }
    }
}

/// The fields of a message, one after the other (protobuf.dev/programming-guides/encoding). What is wrong gives 0 or nothing, and `isGood` no longer holds.
struct PlainFields {
    private let bytes: ArraySlice<UInt8>
    private var at: Int
    private(set) var isGood = true

    init(_ bytes: ArraySlice<UInt8>) { (self.bytes, at) = (bytes, bytes.startIndex) }

    /// Number of the next field and type of its value as they are coded together, below 128; nil behind the last.
    mutating func key() -> UInt8? {
        guard isGood, at < bytes.endIndex else { return nil }
        defer { at += 1 }
        if bytes[at] > 127 { isGood = false }
        return bytes[at]
    }

    mutating func number<Number: FixedWidthInteger>(_ type: Number.Type = Number.self) -> Number {
        var value: UInt64 = 0, shift: UInt64 = 0
        while at < bytes.endIndex, shift < 64 {
            let byte = bytes[at]
            at += 1
            if shift == 63, byte > 1 { break }
            value |= UInt64(byte & 127) << shift
            if byte < 128 {
                if let number = Number(exactly: value) { return number }
                break
            }
            shift += 7
        }
        isGood = false
        return 0
    }

    mutating func flag() -> Bool {
        let number = number(UInt64.self)
        if number > 1 { isGood = false }
        return number == 1
    }

    /// A sint32: small ones of either sign are short.
    mutating func signed() -> Int32 {
        let coded = number(UInt32.self)
        return Int32(bitPattern: coded >> 1) ^ -Int32(bitPattern: coded & 1)
    }

    mutating func part() -> ArraySlice<UInt8> {
        let count = number(Int.self)
        guard count <= bytes.endIndex - at else {
            isGood = false
            return []
        }
        defer { at += count }
        return bytes[at..<(at + count)]
    }

    mutating func text() -> String {
        if let text = String(validating: part(), as: UTF8.self) { return text }
        isGood = false
        return ""
    }
}

extension FileEntry: PlainEntry {
    init?(plain bytes: ArraySlice<UInt8>) {
        var fields = PlainFields(bytes), type: FdTypes?, id: UInt32?
        self.init()
        while let key = fields.key() {
            switch key {
            case 0x08: type = FdTypes(rawValue: fields.number())
            case 0x10: id = fields.number()
            case 0x1a where content == nil:
                guard let file = RegFileEntry(plain: fields.part()) else { return nil }
                content = .reg(file)
            case 0x42 where content == nil:
                guard let file = EventfdFileEntry(plain: fields.part()) else { return nil }
                content = .efd(file)
            default: return nil
            }
        }
        guard fields.isGood, let type, let id, content != nil else { return nil }
        (self.type, self.id) = (type, id)
    }
}

extension RegFileEntry: PlainEntry {
    init?(plain bytes: ArraySlice<UInt8>) {
        var fields = PlainFields(bytes), found: UInt8 = 0, buildID = [UInt32]()
        self.init()
        while let key = fields.key() {
            switch key {
            case 0x08: (id, found) = (fields.number(), found | 1)
            case 0x10: (flags, found) = (fields.number(), found | 2)
            case 0x18: (pos, found) = (fields.number(), found | 4)
            case 0x2a where found & 8 == 0:
                guard let owner = FownEntry(plain: fields.part()) else { return nil }
                (fown, found) = (owner, found | 8)
            case 0x32: (name, found) = (fields.text(), found | 16)
            case 0x38: mntID = fields.signed()
            case 0x40: size = fields.number()
            case 0x48: ext = fields.flag()
            case 0x50: mode = fields.number()
            case 0x58: buildID.append(fields.number())
            case 0x60: checksum = fields.number()
            case 0x68: checksumConfig = fields.number()
            case 0x70: checksumParameter = fields.number()
            default: return nil
            }
        }
        guard fields.isGood, found == 31 else { return nil }
        if !buildID.isEmpty { self.buildID = buildID }
    }
}

extension EventfdFileEntry: PlainEntry {
    init?(plain bytes: ArraySlice<UInt8>) {
        var fields = PlainFields(bytes), found: UInt8 = 0
        self.init()
        while let key = fields.key() {
            switch key {
            case 0x08: (id, found) = (fields.number(), found | 1)
            case 0x10: (flags, found) = (fields.number(), found | 2)
            case 0x1a where found & 4 == 0:
                guard let owner = FownEntry(plain: fields.part()) else { return nil }
                (fown, found) = (owner, found | 4)
            case 0x20: (counter, found) = (fields.number(), found | 8)
            default: return nil
            }
        }
        guard fields.isGood, found == 15 else { return nil }
    }
}

extension FownEntry: PlainEntry {
    init?(plain bytes: ArraySlice<UInt8>) {
        var fields = PlainFields(bytes), found: UInt8 = 0
        self.init()
        while let key = fields.key() {
            switch key {
            case 0x08: (uid, found) = (fields.number(), found | 1)
            case 0x10: (euid, found) = (fields.number(), found | 2)
            case 0x18: (signum, found) = (fields.number(), found | 4)
            case 0x20: (pidType, found) = (fields.number(), found | 8)
            case 0x28: (pid, found) = (fields.number(), found | 16)
            default: return nil
            }
        }
        guard fields.isGood, found == 31 else { return nil }
    }
}

extension FdinfoEntry: PlainEntry {
    init?(plain bytes: ArraySlice<UInt8>) {
        var fields = PlainFields(bytes), found: UInt8 = 0
        self.init()
        while let key = fields.key() {
            switch key {
            case 0x08: (id, found) = (fields.number(), found | 1)
            case 0x10: (flags, found) = (fields.number(), found | 2)
            case 0x18:
                guard let type = FdTypes(rawValue: fields.number()) else { return nil }
                (self.type, found) = (type, found | 4)
            case 0x20: (fd, found) = (fields.number(), found | 8)
            default: return nil
            }
        }
        guard fields.isGood, found == 15 else { return nil }
    }
}

extension PagemapEntry: PlainEntry {
    init?(plain bytes: ArraySlice<UInt8>) {
        var fields = PlainFields(bytes), found: UInt8 = 0
        self.init()
        while let key = fields.key() {
            switch key {
            case 0x08: (vaddr, found) = (fields.number(), found | 1)
            case 0x10: (compatNrPages, found) = (fields.number(), found | 2)
            case 0x18: inParent = fields.flag()
            case 0x20: flags = fields.number()
            case 0x28: nrPages = fields.number()
            default: return nil
            }
        }
        guard fields.isGood, found == 3 else { return nil }
    }
}
