import CLinux
import Glibc

/// CRC-32C (Castagnoli): finds every flipped byte. By the CPU's own instruction some 20 GB/s of pages, so that what costs is to read them.
public enum Checksum {
    /// Of bytes that follow others, of which it is `before`.
    public static func of(_ bytes: [UInt8], after before: UInt32 = 0) -> UInt32 {
        unsafe bytes.withUnsafeBytes { unsafe clinux_crc32c(before, $0.baseAddress, $0.count) }
    }

    /// Of a page of zeros.
    public static let ofZeros = of([UInt8](repeating: 0, count: 4096))

    /// Of the first `size` bytes of a file, or of fewer where it ends.
    public static func of(_ file: FileDescriptor, size: UInt64, through buffer: PageBuffer = PageBuffer(piece)) throws(SyscallError) -> (sum: UInt32, size: UInt64) {
        var sum: UInt32 = 0, at: UInt64 = 0
        while at < size {
            try buffer.fill(from: file, at: at, Int(min(size - at, UInt64(piece))))
            if buffer.count == 0 { break }
            sum = buffer.checksum(after: sum)
            at += UInt64(buffer.count)
        }
        return (sum, at)
    }

    /// Of each page of a part of a file (whole pages); fewer where the file ends.
    ///
    /// Through a mapping: to map what is in the page cache costs half of copying it. What can't be mapped is read, and says why it can't be.
    public static func ofPages(of file: FileDescriptor, _ range: Range<UInt64>) throws(SyscallError) -> [UInt32] {
        var sums = [UInt32]()
        sums.reserveCapacity(range.count / 4096)
        var at = range.lowerBound
        while at < range.upperBound {
            let part = at..<min(range.upperBound, at + mappedPiece)
            if let found = ofMapped(file, part) { sums += found } else {
                let read = try ofRead(file, part)
                sums += read
                if read.count < part.count / 4096 { break }
            }
            at = part.upperBound
        }
        return sums
    }

    private static func ofRead(_ file: FileDescriptor, _ range: Range<UInt64>) throws(SyscallError) -> [UInt32] {
        var sums = [UInt32]()
        let buffer = PageBuffer(min(piece, range.count))
        var at = range.lowerBound
        while at < range.upperBound {
            try buffer.fill(from: file, at: at, Int(clamping: range.upperBound - at))
            sums += buffer.checksums
            if buffer.count == 0 { break }
            at += UInt64(buffer.count)
        }
        return sums
    }

    /// Nil where not all of it can be brought in: behind the file's end, or not to be read from the disk. (Touching it would be SIGBUS.)
    private static func ofMapped(_ file: FileDescriptor, _ range: Range<UInt64>) -> [UInt32]? {
        let length = range.count
        guard length >= 16 * 4096 else { return nil }
        let address = unsafe Syscall.raw(SYS_mmap, 0, length, Int(PROT_READ), Int(MAP_SHARED), Int(file.number), Int(range.lowerBound))
        guard address > 0 || address < -4095 else { return nil }
        defer { _ = unsafe Syscall.raw(SYS_munmap, address, length) }
        guard unsafe Syscall.raw(SYS_madvise, address, length, 22 /* MADV_POPULATE_READ, Linux 5.14 */) == 0 else { return nil }
        return unsafe ofPages(UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: address), count: length))
    }

    /// Of each page of a buffer.
    static func ofPages(_ pages: UnsafeRawBufferPointer) -> [UInt32] {
        let count = pages.count / 4096
        return unsafe [UInt32](unsafeUninitializedCapacity: count) { sums, initialized in
            if count > 0 { unsafe clinux_crc32c_of_pages(pages.baseAddress!, count, sums.baseAddress!) }
            initialized = count
        }
    }

    /// Stays in the CPU's cache between its reading and its sum.
    /// Bytes that are read at once.
    public static let piece = 1 << 18
    private static let mappedPiece: UInt64 = 4 << 20
}
