import Glibc

/// Compares pages of two files, such as those of a parent's and a child's image.
public enum PageComparison {
    /// For each of `count` pages whether it is the same in both.
    /// - Parameter read: gives a range of bytes, counted from the first page, of both.
    public static func equal(count: Int, _ read: (Range<UInt64>) throws -> ([UInt8], [UInt8])) rethrows -> [Bool] {
        var result = [Bool]()
        result.reserveCapacity(count)
        var done = 0
        while done < count {
            let pages = min(count - done, 64)
            let (a, b) = try read(UInt64(done * 4096)..<UInt64((done + pages) * 4096))
            for page in 0..<pages {
                let range = (page * 4096)..<((page + 1) * 4096)
                guard a.count >= range.upperBound, b.count >= range.upperBound else { result.append(false); continue }
                result.append(unsafe a.withUnsafeBytes { x in
                    unsafe b.withUnsafeBytes { y in unsafe memcmp(x.baseAddress! + range.lowerBound, y.baseAddress! + range.lowerBound, 4096) == 0 }
                })
            }
            done += pages
        }
        return result
    }
}
