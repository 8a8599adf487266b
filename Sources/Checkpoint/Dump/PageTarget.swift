import ImageMessages
import Images
import Kinds
import Linux
import Pages

/// Takes pages that we copy, in address order.
protocol PageTarget: AnyObject {
    /// - Parameter content: of those runs that have it, one behind the other. The others are in an older image, or come later.
    func take(_ runs: [PageRuns.Run], _ content: PageBuffer) throws
    /// All has come.
    func finish() throws
}

/// A pages file, compressed and encrypted or not. What has come is what its pagemap says.
final class PagesFileTarget: PageTarget {
    private let pages: NewPagesFile
    private var entries = PageEntries()
    init(_ pages: NewPagesFile) { self.pages = pages }

    func take(_ runs: [PageRuns.Run], _ content: PageBuffer) throws {
        if content.count > 0 {
            try CheckpointError.about("write", .image(pages.name), remedy: "free space, or give another directory with -D") { try pages.append(content) }
        }
        for run in runs { entries.add(run.range, run.flags) }
    }
    func finish() throws {
        try pages.isWhole()
        pages.entries = entries.entries
    }
}

/// A page server that has been told whose pages come. They go through our buffer: a target blocked in a write to a socket could not be let go
/// at any moment.
final class PageServerTarget: PageTarget {
    private let server: any PageReceiver
    init(_ server: any PageReceiver) { self.server = server }

    /// Pages are announced when they have been read: one that is gone is left out.
    func take(_ runs: [PageRuns.Run], _ content: PageBuffer) throws { try server.put(runs, content) }
    func finish() {}
}

extension PageRuns {
    /// Copies the pages, piece by piece, in the order of the runs. Answers how many bytes had content.
    /// - Parameters:
    ///   - gone: told of a page that can't be read.
    ///   - progress: told the bytes copied so far.
    func copy(by copier: PageCopier, to target: any PageTarget, gone: (Range<UInt64>) throws -> Void, progress: (UInt64) -> Void) throws -> UInt64 {
        var done: UInt64 = 0
        try copier.copy(runs, gone: gone) { some, content in
            try target.take(some, content)
            done += UInt64(content.count)
            progress(done)
        }
        try target.finish()
        return done
    }
}

extension PageBuffer {
    /// A disk that is written past the page cache is given much at once.
    static func forCopies(_ settings: DumpSettings) -> PageBuffer { settings.directIO ? PageBuffer(8 << 20) : PageBuffer() }
}
