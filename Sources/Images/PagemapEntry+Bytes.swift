import ImageMessages
import Linux
import SwiftProtobuf

/// Memory that was written here and there has a hundred thousand entries in its pagemap, which are written while a tree waits. They have five numbers
/// each; this knows no more, and leaves what it doesn't know to the message's own code.
extension PagemapEntry {
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
