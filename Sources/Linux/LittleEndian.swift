/// Structures of the kernel's ABI as bytes: little-endian words at offsets.
public extension Array where Element == UInt8 {
    func word<Word: FixedWidthInteger>(_ type: Word.Type = Word.self, at offset: Int) -> Word {
        let size = MemoryLayout<Word>.size
        guard offset >= 0, offset <= count - size else { return 0 }
        return (0..<size).reduce(0) { $0 | Word(truncatingIfNeeded: self[offset + $1]) << Word(8 * $1) }
    }
    mutating func put<Word: FixedWidthInteger>(_ word: Word, at offset: Int) {
        for index in 0..<MemoryLayout<Word>.size { self[offset + index] = UInt8(truncatingIfNeeded: word >> Word(8 * index)) }
    }
    mutating func append<Word: FixedWidthInteger>(word: Word) {
        for index in 0..<MemoryLayout<Word>.size { append(UInt8(truncatingIfNeeded: word >> Word(8 * index))) }
    }
    /// The whole as words, for arrays of an image.
    func words<Word: FixedWidthInteger>(_ type: Word.Type = Word.self, in range: Range<Int>) -> [Word] {
        stride(from: range.lowerBound, to: range.upperBound, by: MemoryLayout<Word>.size).map { word(Word.self, at: $0) }
    }
    mutating func put<Word: FixedWidthInteger>(_ words: [Word], at offset: Int) {
        for (index, word) in words.enumerated() { put(word, at: offset + index * MemoryLayout<Word>.size) }
    }
}

/// The four bytes of a word, least first.
public func little32(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
/// The eight bytes of a word, least first.
public func little64(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
