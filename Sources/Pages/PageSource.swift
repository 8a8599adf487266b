import Glibc
package import Images
import Kinds
package import Linux

/// Where pages of tasks are, to be given to whoever restores them.
package protocol PageSource: AnyObject {
    /// Reads pages from the beginning of `range` into `buffer`, as many as are at hand in one piece, and at most its capacity. Returns bytes.
    func read(_ range: Range<UInt64>, of task: UInt32, into buffer: PageBuffer) throws -> Int
    /// Whether nobody has to be asked for them: then one page at a time costs little more than several.
    var isNear: Bool { get }
}
extension PageSource { package var isNear: Bool { false } }

/// Pages in the images of a directory and its parents.
package final class ImagePageSource: PageSource {
    package var isNear: Bool { true }
    private let chain: PageChain
    private var known: [UInt32: PageImage] = [:]
    /// Has the region that was decompressed last.
    private var last: (task: UInt32, file: Int, reader: PagesReader)?
    package init(_ chain: PageChain) { self.chain = chain }

    package func read(_ range: Range<UInt64>, of task: UInt32, into buffer: PageBuffer) throws -> Int {
        buffer.clear(0)
        try append(range, of: task, to: buffer)
        return buffer.count
    }

    /// Up to the first page that is not here, or for which there is no room.
    package func append(_ range: Range<UInt64>, of task: UInt32, to buffer: PageBuffer) throws {
        let image = try image(of: task)
        var at = range.lowerBound
        for run in image.runs(within: [range.lowerBound..<min(range.upperBound, range.lowerBound + UInt64(buffer.room))]) {
            guard run.range.lowerBound == at else { return }
            try append(run, of: image.files[run.file], task, to: buffer)
            at = run.range.upperBound
        }
    }

    package func image(of task: UInt32) throws -> PageImage {
        let image = try known[task] ?? PageImage(chain, .pagemap, task)
        known[task] = image
        return image
    }

    private func append(_ run: PageImage.Run, of file: PageImage.File, _ task: UInt32, to buffer: PageBuffer) throws {
        if file.regions != nil { return try decompress(run, of: file, task, to: buffer) }
        let before = buffer.count
        guard buffer.readMore(from: file.descriptor, at: run.offset, run.range.count) == run.range.count else { throw CheckpointError("read", .image(file.name), "its pages can't be read") }
        if let damage = Verification.damage(buffer.checksums(of: before..<buffer.count), of: file, at: run.offset, run.range.lowerBound, .init(task: task)) { throw CheckpointError("give", damage) }
    }

    private func decompress(_ run: PageImage.Run, of file: PageImage.File, _ task: UInt32, to buffer: PageBuffer) throws {
        if last?.task != task || last?.file != run.file { last = (task, run.file, PagesReader(file)) }
        try last?.reader.eachPiece(of: run.offset..<(run.offset + UInt64(run.range.count))) { piece, part, offset in
            let address = run.range.lowerBound + offset - run.offset
            if let damage = Verification.damage(piece.checksums(of: part), of: file, at: offset, address, .init(task: task)) { throw CheckpointError("give", damage) }
            _ = buffer.append(piece, part)
        }
    }
}

/// Pages that only somebody else has.
package protocol RemotePages: AnyObject {
    /// Puts pages into `buffer`, one behind the other: as many of them as come at once, from the first of `ranges` (ascending) on. Returns bytes.
    func fetch(_ ranges: [Range<UInt64>], of task: UInt32, into buffer: PageBuffer) throws -> Int
}

/// Pages that are partly in images here, partly elsewhere: what follows a tree that was dumped before.
package final class CombinedPageSource: PageSource {
    private let local: ImagePageSource, remote: any RemotePages
    private let fetched = PageBuffer()
    package init(_ local: ImagePageSource, _ remote: any RemotePages) { (self.local, self.remote) = (local, remote) }

    package func read(_ range: Range<UInt64>, of task: UInt32, into buffer: PageBuffer) throws -> Int {
        buffer.clear(0)
        var next = range.lowerBound
        let end = min(range.upperBound, next + UInt64(PageBuffer.capacity))
        let absent = try local.image(of: task).elsewhere(within: next..<end)
        var left = absent.isEmpty ? 0 : try remote.fetch(absent, of: task, into: fetched)
        /// What is here, up to what is not.
        func take(upTo place: UInt64) throws -> Bool {
            let before = buffer.count
            if place > next { try local.append(next..<place, of: task, to: buffer) }
            next += UInt64(buffer.count - before)
            return next == place
        }
        for gap in absent {
            guard try take(upTo: gap.lowerBound), left > 0 else { return buffer.count }
            let part = (fetched.count - left)..<(fetched.count - left + min(left, gap.count))
            next += UInt64(buffer.append(fetched, part))
            left -= part.count
            guard next == gap.upperBound else { return buffer.count }
        }
        _ = try take(upTo: end)
        return buffer.count
    }
}

/// Pages of processes that stand still after a lazy dump.
package final class FrozenPageSource: PageSource, RemotePages {
    /// Of one process: what was not saved, ascending, and the thread through which its memory is seen.
    package struct Pages {
        let view: ThreadID, ranges: [Range<UInt64>]
        package init(_ ranges: [Range<UInt64>], of view: ThreadID) { (self.ranges, self.view) = (ranges, view) }
    }
    private let pages: [UInt32: Pages]
    private let copied = PageBuffer()
    package init(_ pages: [UInt32: Pages]) { self.pages = pages }
    package var bytes: UInt64 { pages.values.reduce(0) { $0 + $1.ranges.reduce(0) { $0 + UInt64($1.count) } } }

    package func read(_ range: Range<UInt64>, of task: UInt32, into buffer: PageBuffer) throws -> Int {
        guard let pages = pages[task], let run = pages.ranges.first(where: { $0.contains(range.lowerBound) }) else { return 0 }
        let part = range.lowerBound..<min(range.upperBound, run.upperBound)
        let got = buffer.read(part, of: pages.view)
        if got > 0 { return got }
        let memory = try FileDescriptor.open("/proc/\(pages.view)/mem", O_RDONLY)
        return buffer.inspect(part.lowerBound..<(part.lowerBound + 4096), memory)
    }

    package func fetch(_ ranges: [Range<UInt64>], of task: UInt32, into buffer: PageBuffer) throws -> Int {
        guard let pages = pages[task], MemoryTracker.common(ranges, pages.ranges) == ranges else {
            throw CheckpointError("give", .task(ThreadID(Int32(bitPattern: task))), "pages are asked for that were sent, or that it does not have")
        }
        buffer.clear(0)
        try PageCopier(of: pages.view, copied).copy(ranges.map { .init(range: $0, flags: PageRuns.present, readable: true) }, gone: { page in
            throw CheckpointError("give", .mapping(page, name: "", of: ThreadID(Int32(bitPattern: task))), "this page can't be read")
        }) { _, content in _ = buffer.append(content, 0..<content.count) }
        return buffer.count
    }
}

/// Pages that a page server, or a lazy dump, has.
package final class RemotePageSource: RemotePages {
    private let connection: PageConnection
    private let place: PageServerPlace
    package init(_ place: PageServerPlace) throws {
        self.place = place
        connection = try place.connect()
    }

    /// One answer.
    package func fetch(_ ranges: [Range<UInt64>], of task: UInt32, into buffer: PageBuffer) throws -> Int {
        guard let range = ranges.first else { return 0 }
        let asked = range.lowerBound..<min(range.upperBound, range.lowerBound + UInt64(PageBuffer.capacity))
        return try CheckpointError.about("get pages from", .object("the page server"), remedy: "the connection is lost; restore again from the source, which still has them") {
            try connection.send(PageRequest(.get, pages: UInt64(asked.count) / 4096, address: asked.lowerBound, subject: UInt64(task)))
            guard let answer = PageRequest(try connection.expect(PageRequest.size)), answer.command == .addWithFlags, UInt32(answer.flags) & PageRuns.present != 0, let given = answer.range,
                given.lowerBound == asked.lowerBound, given.upperBound <= asked.upperBound
            else { throw CheckpointError("get pages from", .object("the page server"), "its answer is not the one to our question") }
            guard try buffer.receive(given.count, from: connection.input) else { throw connection.wasCut }
            return given.count
        }
    }

    /// Says that nothing more is needed: a lazy dump then ends its tree.
    package func finish() throws {
        try connection.send(PageRequest(place.isHandedOver ? .forceClose : .close))
        _ = try connection.receive(4)
        place.end(connection)
    }
}
