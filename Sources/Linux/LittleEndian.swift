/// Structures of the kernel's ABI as bytes: little-endian words at offsets. Inlined: register sets and page maps are read through them.
public extension Array where Element == UInt8 {
    /// The word at `offset`; 0 where the bytes end before.
    @inlinable func word<Word: FixedWidthInteger & BitwiseCopyable>(_ type: Word.Type = Word.self, at offset: Int) -> Word {
        guard offset >= 0, offset <= count - MemoryLayout<Word>.size else { return 0 }
        return unsafe withUnsafeBytes { unsafe Word(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: Word.self)) }
    }
    @inlinable mutating func put<Word: FixedWidthInteger & BitwiseCopyable>(_ word: Word, at offset: Int) {
        precondition(offset >= 0 && offset <= count - MemoryLayout<Word>.size, "a word past the end")
        unsafe withUnsafeMutableBytes { unsafe $0.storeBytes(of: word.littleEndian, toByteOffset: offset, as: Word.self) }
    }
    @inlinable mutating func append<Word: FixedWidthInteger & BitwiseCopyable>(word: Word) {
        for index in 0..<MemoryLayout<Word>.size { append(UInt8(truncatingIfNeeded: word >> Word(8 * index))) }
    }
    /// Bytes behind their length, a word of 32 bits.
    mutating func append(sized bytes: [UInt8]) { self += little32(UInt32(bytes.count)) + bytes }
    /// The bytes behind the length at `offset`, which moves behind them; nil where they are cut short.
    func sized(at offset: inout Int) -> [UInt8]? {
        guard offset >= 0, count - offset >= 4 else { return nil }
        let length = Int(word(UInt32.self, at: offset))
        guard length <= count - offset - 4 else { return nil }
        defer { offset += 4 + length }
        return Array(self[(offset + 4)..<(offset + 4 + length)])
    }
    /// The whole as words, for arrays of an image.
    @inlinable func words<Word: FixedWidthInteger & BitwiseCopyable>(_ type: Word.Type = Word.self, in range: Range<Int>) -> [Word] {
        stride(from: range.lowerBound, to: range.upperBound, by: MemoryLayout<Word>.size).map { word(Word.self, at: $0) }
    }
    @inlinable mutating func put<Word: FixedWidthInteger & BitwiseCopyable>(_ words: [Word], at offset: Int) {
        for (index, word) in words.enumerated() { put(word, at: offset + index * MemoryLayout<Word>.size) }
    }
}

/// The four bytes of a word, least first.
public func little32(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
/// The eight bytes of a word, least first.
public func little64(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
