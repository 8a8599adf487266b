import CLinux
import Glibc
package import Graft
package import Images
package import Linux

/// Brings the pages of a stopped process into its pages image. The task writes them itself (pwritev(2) in a batch: no page
/// passes through us); where it can't (unreadable mappings, no free descriptor, a file size limit) we copy. Many pages for a file in memory we
/// write with it.
package struct PageWriter {
    let pages: NewPagesFile
    let process: ThreadID
    private var image: FileDescriptor { pages.file }

    /// Told now and then how many bytes are written from the beginning of the pages on, and how many of all.
    package var report: (_ beginning: UInt64, _ all: UInt64) -> Void = { _, _ in }

    package init(_ pages: NewPagesFile, process: ThreadID) { (self.pages, self.process) = (pages, process) }

    /// - Parameters:
    ///   - lent: the image's number in the task, nil when it has none.
    ///   - areAll: whether the pieces are all that the image will have.
    /// - Returns: bytes that we have written ourselves meanwhile (`SecondWriter`).
    package func write(_ pieces: [PageRuns.Piece], by grafted: GraftedTask, lent: Int32?, areAll: Bool) throws -> UInt64 {
        var pending = [(range: Range<UInt64>, offset: UInt64)]()
        for piece in pieces {
            if piece.readable, lent != nil { pending.append((piece.range, piece.offset)) } else { try copy(piece.range, to: piece.offset) }
        }
        guard let lent else { return 0 }
        let size = pending.reduce(0) { $0 + UInt64($1.range.count) }
        let second = areAll && pending.count == pieces.count ? SecondWriter(image, size: size, of: process, pages.isSummed ? pages.sums : nil) : nil
        let end = try VectoredTransfer(pending, small: second != nil).run("pwritev", SYS_pwritev, on: lent, in: [grafted], beside: second, report: report) { call, result in
            if result == Int(call.bytes) { return }
            if result < 0 && result != -Int(EFAULT) { throw noRoom(Int32(-result)) }
            try finish(call.vector, call.offset, done: max(result, 0))
        }
        guard let end else { return 0 }
        pages.isSummed(from: end)
        return size - end
    }

    /// A short write: the disk is full, or a page can't be read by the task itself (a hole in a file mapping, MADV_GUARD).
    private func finish(_ vector: [UInt64], _ offset: UInt64, done: Int) throws {
        var skip = UInt64(done), at = offset
        for index in stride(from: 0, to: vector.count, by: 2) {
            let (start, length) = (vector[index], vector[index + 1])
            let skipped = min(skip, length)
            skip -= skipped
            if skipped < length { try copy((start + skipped)..<(start + length), to: at + skipped) }
            at += length
        }
    }

    /// Copies through our own buffer.
    private func copy(_ range: Range<UInt64>, to offset: UInt64) throws {
        let memory = RemoteMemory(of: process)
        var at = range.lowerBound
        while at < range.upperBound {
            let count = Int(min(range.upperBound - at, 1 << 18))
            let bytes = try CheckpointError.about("dump", .mapping(range, name: "", of: process)) { try memory.inspect(at, count) }
            do throws(SyscallError) { try image.write(bytes, at: Int(offset + at - range.lowerBound)) } catch { throw noRoom(error.errno.rawValue) }
            at += UInt64(count)
        }
    }

    private func noRoom(_ errno: Int32) -> CheckpointError {
        CheckpointError(
            "write", .image(pages.name), "\(Errno(errno))", remedy: errno == ENOSPC ? "free space, or give another directory with -D" : nil, errno: Errno(errno))
    }
}
