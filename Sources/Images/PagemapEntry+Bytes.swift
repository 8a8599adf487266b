import ImageMessages
import Linux
import SwiftProtobuf

/// Memory that was written here and there has a hundred thousand entries in its pagemap, which are read and written while a tree waits. They have five
/// numbers each; these two know no more, and leave what they don't know to the message's own code.
extension PagemapEntry {
    /// An entry that has each field once at most, and nothing else.
    init?(plain bytes: ArraySlice<UInt8>) {
        self.init()
        var at = bytes.startIndex, isFull: UInt8 = 0
        func varint() -> UInt64? {
            var value: UInt64 = 0
            for shift in stride(from: UInt64(0), to: 64, by: 7) {
                guard at < bytes.endIndex else { return nil }
                let byte = bytes[at]
                at += 1
                if shift == 63, byte > 1 { return nil }
                value |= UInt64(byte & 127) << shift
                if byte < 128 { return value }
            }
            return nil
        }
        while at < bytes.endIndex {
            let key = bytes[at]
            at += 1
            let bit = UInt8(1) << (key >> 3 & 7)
            guard key & 0x87 == 0, isFull & bit == 0, let value = varint() else { return nil }
            isFull |= bit
            switch key >> 3 {
            case 1: vaddr = value
            case 2:
                guard let number = UInt32(exactly: value) else { return nil }
                compatNrPages = number
            case 3:
                guard value < 2 else { return nil }
                inParent = value == 1
            case 4:
                guard let number = UInt32(exactly: value) else { return nil }
                flags = number
            case 5: nrPages = value
            default: return nil
            }
        }
        guard isFull & 0b110 == 0b110 else { return nil }
    }

    /// Appends the entry as it stands in a file, its length before it. False, and nothing done, for one that this code doesn't know.
    func appendPlain(to bytes: inout [UInt8]) -> Bool {
        guard hasVaddr, hasCompatNrPages, unknownFields.data.isEmpty else { return false }
        let place = bytes.count
        bytes.append(word: UInt32(0))
        func put(_ field: UInt8, _ number: UInt64) {
            bytes.append(field << 3)
            var left = number
            while left > 127 {
                bytes.append(UInt8(truncatingIfNeeded: left) | 128)
                left >>= 7
            }
            bytes.append(UInt8(left))
        }
        put(1, vaddr)
        put(2, UInt64(compatNrPages))
        if hasInParent { put(3, inParent ? 1 : 0) }
        if hasFlags { put(4, UInt64(flags)) }
        if hasNrPages { put(5, nrPages) }
        bytes.put(UInt32(bytes.count - place - 4), at: place)
        return true
    }
}
