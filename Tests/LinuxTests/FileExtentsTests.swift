import Foundation
import Glibc
import Linux
import Testing

@Suite("extents of a file") struct FileExtentsTests {
    @Test("are what is no hole, however many there are, with room that was only taken marked") func areas() throws {
        let path = NSTemporaryDirectory() + "stasis-extents-\(UUID())"
        let file = try FileDescriptor.open(path, O_RDWR | O_CREAT | O_EXCL)
        unsafe unlink(path)
        for island in 0..<600 { try file.write([1], at: island << 16) }
        try #require(posix_fallocate(file.number, 600 << 16, 8192) == 0)
        let extents = try file.extents(), written = extents.filter { !$0.isReserved }
        #expect(written.map(\.area) == (0..<600).map { $0 << 16..<($0 << 16) + 4096 })
        #expect(extents.filter(\.isReserved).map(\.area) == [600 << 16..<(600 << 16) + 8192])
    }

    @Test("are not told of what is no file of a disk") func others() throws {
        #expect(throws: SyscallError.self) { try FileDescriptor.open("/proc/self/status", O_RDONLY).extents() }
    }
}
