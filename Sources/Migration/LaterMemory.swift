import Images
import Kinds
import Linux
import Pages

/// Gives a restored tree its memory while it runs already, out of the images that are here and, in post-copy, from the source: how long the
/// tree stands still does not depend on how much memory it has. A thread of its own: this one traces the tree, which may wait for a page in
/// the midst of it.
final class LaterMemory {
    /// Less than that is read at once: it takes some milliseconds, and processes go on sharing pages with their parents.
    private static let worthwhile: UInt64 = 16 << 20
    /// UFFD_FEATURE_EVENT_FORK, _REMAP, _REMOVE, _UNMAP (linux/userfaultfd.h)
    static var isPossible: Bool { KernelProbe.userfault(features: 0b100_1110) }

    private let listener: LazyPagesListener
    private let taker: MemoryTaker?
    private let thread = Workers(1)
    /// Why the source's memory does not come any more.
    var failure: (any Error)? { taker?.failure }

    /// Nil where it is not worth it, or not possible here.
    /// - Parameters:
    ///   - rounds: the directories whose pages make the memory.
    ///   - source: has the pages that the images lack.
    init?(_ images: FileDescriptor, rounds: [FileDescriptor], from source: SharedLine?, _ log: Log) throws {
        guard source != nil || Self.bytes(in: rounds) >= Self.worthwhile && Self.isPossible else { return nil }
        listener = try LazyPagesListener(in: images)
        taker = source.map(MemoryTaker.init)
        thread.run { [listener, taker] in
            try listener.serve(images, remote: taker, ahead: true, verifies: false, log)
        }
    }

    private static func bytes(in rounds: [FileDescriptor]) -> UInt64 {
        rounds.reduce(0) { sum, directory in
            ((try? Files.names(in: ".", at: directory.number)) ?? []).filter { $0.hasPrefix("pages-") }
                .reduce(sum) { $0 + UInt64(((try? Files.status($1, at: directory.number))?.blocks ?? 0) * 512) }
        }
    }

    /// The restore has failed. Its processes are gone, and nobody may come any more.
    func cancel() {
        listener.cancel()
        thread.cancel()
    }

    /// Returns when the tree has all its memory.
    func finish() throws {
        do { try thread.finish() } catch {
            throw CheckpointError(
                "give", .object("the tree that runs here now the rest of its memory"), "\(error)",
                remedy: taker == nil ? "its processes were ended; start it anew" : "its processes were ended; it stands at the source, as it was when it was frozen")
        }
    }
    /// The source's tree may end.
    func complete() throws { try taker?.complete() }
    deinit { cancel() }
}
