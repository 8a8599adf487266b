import CLinux
import Glibc

extension FileDescriptor {
    /// An area of a file that is no hole.
    public struct Extent: Equatable, Sendable {
        public let area: Range<Int>
        /// Room that was taken for it (fallocate(2)); whether something was written there SEEK_DATA tells.
        public let isReserved: Bool
        public init(area: Range<Int>, isReserved: Bool) { (self.area, self.isReserved) = (area, isReserved) }
    }

    /// Where a regular file is no hole, ascending, many at a time (Documentation/filesystems/fiemap.rst); also what is in the page cache only. Fails with EOPNOTSUPP where the file system does not tell.
    public func extents() throws(SyscallError) -> [Extent] {
        let headSize = 32, extentSize = 56, most = 256, last: UInt32 = 1, unwritten: UInt32 = 0x800
        var found = [Extent](), at = 0
        while true {
            // struct fiemap: start, length, flags, extents told, room for extents, reserved; then the extents
            var bytes = [at, Int.max].flatMap { little64(UInt64($0)) } + [0, 0, UInt32(most), 0].flatMap { little32($0) }
            bytes += [UInt8](repeating: 0, count: most * extentSize)
            try Syscall.call("ioctl(FS_IOC_FIEMAP)", SYS_ioctl, bytes: &bytes, at: 2, Int(number), 0xc020_660b, on: .fd(number))
            let count: UInt32 = bytes.word(at: 20)
            guard count > 0, count <= most else { return found }
            for index in 0..<Int(count) {
                // struct fiemap_extent: logical, physical, length, reserved, reserved, flags, ...
                let place = headSize + index * extentSize, start: UInt64 = bytes.word(at: place), length: UInt64 = bytes.word(at: place + 16), flags: UInt32 = bytes.word(at: place + 40)
                guard let start = Int(exactly: start), let length = Int(exactly: length), length > 0, start >= at, length <= Int.max - start else { return found }
                found.append(Extent(area: start..<start + length, isReserved: flags & unwritten != 0))
                at = start + length
                if flags & last != 0 { return found }
            }
        }
    }
}
