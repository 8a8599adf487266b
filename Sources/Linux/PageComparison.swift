import Glibc

/// Compares pages of two files, such as those of a parent's and a child's image.
public enum PageComparison {
    /// For each of `count` pages whether page i at `offset` of `file` equals page i at `otherOffset` of `other`.
    public static func equal(
        _ file: FileDescriptor, at offset: UInt64, _ other: FileDescriptor, at otherOffset: UInt64, count: Int
    ) throws(SyscallError) -> [Bool] {
        var result = [Bool]()
        result.reserveCapacity(count)
        var done = 0
        while done < count {
            let pages = min(count - done, 64)
            let a = try file.read(pages * 4096, at: Int(offset) + done * 4096)
            let b = try other.read(pages * 4096, at: Int(otherOffset) + done * 4096)
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
