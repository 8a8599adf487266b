import Glibc
import Images
import Linux

/// Writes pages of a stopped process into a file of a tmpfs beside the process itself. Writes to one file take turns, for each holds the file's
/// lock while it copies; UFFDIO_COPY into a mapping of the file doesn't take it (shmem_mfill_atomic_pte in mm/shmem.c). Two together need six
/// tenths of the time of one. For one thread.
package struct SecondWriter: Sendable {
    /// Bytes for which it pays.
    static let worth: UInt64 = 32 << 20
    /// Bytes that are still in the CPU's cache when they are summed and copied on.
    private static let bytesAtOnce = 1 << 18
    private let process: ThreadID, image: Image, fault: Userfault, sums: PageSums?

    private final class Image: @unchecked Sendable {
        let mapping: MappedFile
        let buffer = PageBuffer(bytesAtOnce)
        init(_ file: FileDescriptor, _ size: UInt64) throws(SyscallError) { mapping = try MappedFile(file, count: Int(size)) }
    }

    /// Nil where the kernel or the filesystem can't.
    /// - Parameters:
    ///   - size: of the whole file, bytes.
    ///   - sums: takes the checksums of what it writes.
    init?(_ file: FileDescriptor, size: UInt64, of process: ThreadID, _ sums: PageSums?) {
        do {
            guard size >= Self.worth, try FileSystemStatus(file).isTmpfs else { return nil }
            try file.truncate(to: size)
            (self.process, self.sums, image, fault) = (process, sums, try Image(file, size), try .make())
            try fault.register(image.mapping.address(of: 0..<size), .missing)
        } catch { return nil }
    }

    /// Pages that lie one behind the other in the file. An error leaves some of them written.
    func write(_ pieces: [Range<UInt64>], at offset: UInt64) throws(SyscallError) {
        var rest = pieces[...], at = offset
        while !rest.isEmpty {
            let count = image.buffer.read(rest, of: process)
            guard count > 0 else { throw SyscallError("process_vm_readv", .task(process), EFAULT) }
            sums?.put(image.buffer.checksums, at: at)
            try fill(image.mapping.address(of: at..<(at + UInt64(count))))
            at += UInt64(count)
            rest.dropFirst(bytes: UInt64(count))
        }
        try image.mapping.forget(offset..<at)
    }

    private func fill(_ place: Range<UInt64>) throws(SyscallError) {
        var done = 0
        while done < place.count {
            done += try image.buffer.fill(fault, at: place.lowerBound + UInt64(done), from: done, place.count - done)
        }
    }
}

private extension ArraySlice<Range<UInt64>> {
    mutating func dropFirst(bytes: UInt64) {
        var left = bytes
        while let first, UInt64(first.count) <= left {
            left -= UInt64(first.count)
            removeFirst()
        }
        if left > 0 { self[startIndex] = self[startIndex].lowerBound + left..<self[startIndex].upperBound }
    }
}
