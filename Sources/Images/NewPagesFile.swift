import Glibc
public import Linux
import Synchronization

/// A pages file that is being written, by whomever. Its checksums are made beside that, by workers, from what the file then holds.
public final class NewPagesFile: Sendable {
    public let number: UInt32
    public let name: String
    /// The image that says where the pages belong.
    public let pagemap: String
    public let file: FileDescriptor
    private let workers: Workers
    private let state = Mutex(State())
    private struct State {
        var sums: [UInt32] = []
        /// Up to where somebody makes the checksums.
        var claimed: UInt64 = 0
        var changed: [Range<UInt64>] = []
    }
    private static let piece: UInt64 = 4 << 20
    /// Bytes for which a worker is not worth waking.
    private static let little: UInt64 = 1 << 18

    public init(_ number: UInt32, pagemap: String, in directory: FileDescriptor, _ workers: Workers) throws(ImageError) {
        (self.number, self.pagemap, self.workers) = (number, pagemap, workers)
        name = ImageKind.pages.name(UInt64(number))
        do throws(SyscallError) { file = try FileDescriptor.open(name, O_RDWR | O_CREAT | O_TRUNC, mode: 0o644, at: directory.number) } catch {
            throw ImageError(name, "it can't be created", error)
        }
    }

    /// Everything before `end` (bytes, whole pages) is written.
    public func grew(to end: UInt64) {
        let claimed = state.withLock { $0.claimed }
        var start = claimed
        while end >= start + Self.piece {
            claim(start..<(start + Self.piece))
            start += Self.piece
        }
    }

    /// All is written.
    public func isWhole(_ end: UInt64) throws(ImageError) {
        grew(to: end)
        let rest = state.withLock { $0.claimed }..<end
        if rest.count > Self.little { claim(rest) } else if !rest.isEmpty { try sum(rest) }
    }

    /// These bytes were written once more.
    public func changed(_ range: Range<UInt64>) {
        let pages = (range.lowerBound & ~4095)..<((range.upperBound + 4095) & ~4095)
        state.withLock { $0.changed.append(pages) }
    }

    /// Writes the checksums, when the workers have finished and the pagemap is written.
    public func writeChecksums(in directory: FileDescriptor) throws(ImageError) {
        for range in state.withLock({ $0.changed }) { try sum(range) }
        try PageChecksums(state.withLock { $0.sums }).write(for: number, pagemap: pagemap, in: directory)
    }

    private func claim(_ range: Range<UInt64>) {
        state.withLock { $0.claimed = range.upperBound }
        workers.run { [self] in try sum(range) }
    }

    private func sum(_ range: Range<UInt64>) throws(ImageError) {
        let sums: [UInt32]
        do throws(SyscallError) { sums = try Checksum.ofPages(of: file, range) } catch { throw ImageError(name, "it can't be read again", error) }
        guard UInt64(sums.count) * 4096 == UInt64(range.count) else { throw ImageError(name, "it is shorter than what was written to it") }
        let first = Int(range.lowerBound / 4096)
        state.withLock { state in
            if state.sums.count < first + sums.count { state.sums += [UInt32](repeating: 0, count: first + sums.count - state.sums.count) }
            state.sums.replaceSubrange(first..<(first + sums.count), with: sums)
        }
    }
}
