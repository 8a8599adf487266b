import Glibc
import ImageMessages
package import Images
import Kinds
package import Linux

/// Serves one connection: takes the pages of a dump into an image directory, or gives pages to a lazy-pages daemon (format README, 10).
/// Everything that comes in is checked before it is believed; a connection that breaks off leaves no images.
package final class PageServer {
    private let connection: PageConnection
    private let images: FileDescriptor
    private let frees: Bool, flushes: Bool
    private let source: (any PageSource)?
    private let log: Log
    private let buffer = PageBuffer()
    private let workers = Workers()

    private var nextPagesID: UInt32 = 0x10001
    private var files: [PageSubject: Incoming] = [:]
    private var current: PageSubject?
    private var names: [String] = []

    /// The images of one subject while they come in.
    private final class Incoming {
        let writer: ImageWriter, pages: NewPagesFile
        var end: UInt64 = 0, isClosed = false
        init(_ writer: ImageWriter, _ pages: NewPagesFile) { (self.writer, self.pages) = (writer, pages) }
    }

    /// - Parameters:
    ///   - frees: --auto-dedup: pages that come again are freed in the parent directories.
    ///   - flushes: whether everything is on the disk before the other end is told so.
    ///   - source: where pages that are asked for are; nil: nowhere.
    package init(_ connection: PageConnection, images: FileDescriptor, frees: Bool = false, flushes: Bool = true, source: (any PageSource)? = nil, _ log: Log) {
        (self.connection, self.images, self.frees, self.flushes, self.source, self.log) = (connection, images, frees, flushes, source, log)
    }

    private func refused(_ cause: String) -> CheckpointError { CheckpointError("serve", .object("the connection"), cause) }

    /// - Returns: whether the other end said that it is done.
    @discardableResult
    package func serve() throws -> Bool {
        do {
            while let bytes = try connection.receive(PageRequest.size) {
                guard let request = PageRequest(bytes) else { throw refused("what came is no request of a page server: \(bytes.prefix(4).map { String($0, radix: 16) })") }
                switch request.command {
                case .open, .openWithAnswer: try open(request)
                case .parent: try connection.send(number: try hasParent(try subject(request)) ? 1 : 0)
                case .add: try add(request, flags: PageRuns.present)
                case .hole: try add(request, flags: PageRuns.parent)
                case .addWithFlags: try add(request, flags: UInt32(request.flags))
                case .get: try give(request)
                case .close, .forceClose:
                    try finish()
                    try connection.send(number: 0)
                    freeOlder()
                    // As CRIU does: whoever connected closes first.
                    if request.command == .close { _ = try? connection.socket.read(1) }
                    return true
                }
            }
            if !files.isEmpty { throw refused("it ended before the dump was done") }
            return false
        } catch {
            workers.cancel()
            for name in names { try? Files.unlink(name, at: images.number) }
            throw error
        }
    }

    private func subject(_ request: PageRequest) throws -> PageSubject {
        guard let subject = PageSubject(wireNumber: request.subject) else { throw refused("0x\(String(request.subject, radix: 16)) names no task and no segment") }
        return subject
    }

    /// The link may have come with the connection: a dump on the same machine makes it.
    private func hasParent(_ subject: PageSubject) throws -> Bool {
        try ImageDirectory(images).parent()?.exists(subject.file, subject.number) ?? false
    }

    private func open(_ request: PageRequest) throws {
        let subject = try subject(request)
        guard try !ImageDirectory(images).exists("inventory.img") else {
            throw CheckpointError("serve", .object("the connection"), "the image directory holds an earlier dump (inventory.img)", remedy: "another directory with -D")
        }
        guard files[subject] == nil else { throw refused("the pages of \(subject) come twice") }
        let name = subject.file.name(subject.number)
        var head = PagemapHead()
        head.pagesID = nextPagesID
        nextPagesID += 1
        try CheckpointError.about("write", .image(name)) {
            let writer = try ImageWriter(directory: images, name: name)
            let pages = try NewPagesFile(head.pagesID, pagemap: name, in: images, workers)
            names += [name, pages.name, ImageFile.pageChecksums.name(head.pagesID)]
            try writer.append(head)
            files[subject] = Incoming(writer, pages)
        }
        if let before = current { try close(before) }
        current = subject
        if request.command == .openWithAnswer { try connection.output.write([try hasParent(subject) ? 1 : 0]) }
    }

    private func close(_ subject: PageSubject) throws {
        guard let file = files[subject], !file.isClosed else { return }
        file.isClosed = true
        try CheckpointError.about("write", .image(subject.file.name(subject.number))) { try file.writer.finish(sync: false) }
    }

    private func add(_ request: PageRequest, flags: UInt32) throws {
        let subject = try subject(request)
        guard let file = files[subject], !file.isClosed else { throw refused("pages of \(subject) come before it was opened") }
        guard flags & ~7 == 0, flags != 0 else { throw refused("the flags 0x\(String(flags, radix: 16)) are unknown") }
        guard let range = request.range, range.lowerBound >= file.end else {
            throw refused("\(request.pages) pages at 0x\(String(request.address, radix: 16)) of \(subject) are out of order or range")
        }
        file.end = range.upperBound
        if range.isEmpty { return }
        var entry = PagemapEntry()
        (entry.vaddr, entry.compatNrPages, entry.flags, entry.nrPages) = (range.lowerBound, 0, flags, request.pages)
        try file.writer.append(entry)
        guard flags & PageRuns.present != 0 else { return }
        var left = UInt64(range.count)
        while left > 0 {
            guard try buffer.receive(Int(min(left, UInt64(PageBuffer.capacity))), from: connection.socket) else { throw refused("it ended within the pages of \(subject)") }
            try CheckpointError.about("write", .image(file.pages.name), remedy: "free space there") { try file.pages.append(buffer) }
            left -= UInt64(buffer.count)
        }
    }

    private func finish() throws {
        for subject in files.keys { try close(subject) }
        guard !files.isEmpty else { return }
        try CheckpointError.about("write", .object("the images"), remedy: "free space there") {
            for file in files.values { try file.pages.isWhole() }
            try workers.finish()
            for file in files.values { try file.pages.writeImages(in: images) }
            if flushes { _ = try Syscall.call("syncfs", 306, Int(images.number), on: .fd(images.number)) }
        }
        log.info("took the pages of \(files.count) tasks and segments")
        files = [:]
        names = []
    }

    /// When the other end, which may hold a tree still, has its answer. Whatever goes wrong costs only room.
    private func freeOlder() {
        guard frees else { return }
        do { _ = try Dedup.run(try PageChain(try ImageDirectory(images)), newestOnly: true) } catch { log.warn("--auto-dedup: \(error)") }
    }

    /// As many pages as lie together from the one that is asked for.
    private func give(_ request: PageRequest) throws {
        guard let source else { throw refused("pages are asked for, but this server only takes them") }
        guard let task = UInt32(exactly: request.subject), let range = request.range, !range.isEmpty else {
            throw refused("\(request.pages) pages at 0x\(String(request.address, radix: 16)) of task \(request.subject) can't be given")
        }
        let count = try source.read(range, of: task, into: buffer)
        guard count > 0 else { throw refused("the page at 0x\(String(range.lowerBound, radix: 16)) of task \(task) is not here") }
        try connection.send(PageRequest(.addWithFlags, flags: UInt16(PageRuns.present), pages: UInt64(count) / 4096, address: range.lowerBound, subject: request.subject))
        try buffer.write(to: connection.output)
    }
}

/// Where pages of tasks are, to be given to whoever restores them.
package protocol PageSource: AnyObject {
    /// Reads pages from the beginning of `range` into `buffer`, as many as are at hand in one piece, and at most its capacity. Returns bytes.
    func read(_ range: Range<UInt64>, of task: UInt32, into buffer: PageBuffer) throws -> Int
}

/// Pages in the images of a directory and its parents.
package final class ImagePageSource: PageSource {
    private let chain: PageChain
    private var known: [UInt32: PageImage] = [:]
    /// Has the region that was decompressed last.
    private var last: (task: UInt32, file: Int, reader: PagesReader)?
    package init(_ chain: PageChain) { self.chain = chain }

    package func read(_ range: Range<UInt64>, of task: UInt32, into buffer: PageBuffer) throws -> Int {
        let image = try known[task] ?? PageImage(chain, .pagemap, task)
        known[task] = image
        guard let run = image.runs(within: [range]).first, run.range.lowerBound == range.lowerBound else { return 0 }
        let file = image.files[run.file]
        if file.regions != nil { return try decompress(run, of: file, task, into: buffer) }
        let got = buffer.read(from: file.descriptor, at: run.offset, run.range.count)
        guard got > 0, got % 4096 == 0 else { throw CheckpointError("read", .image(file.name), "its pages can't be read") }
        if let damage = Verification.damage(buffer.checksums, of: file, at: run.offset, run.range.lowerBound, .init(task: task)) { throw CheckpointError("give", damage) }
        return got
    }

    private func decompress(_ run: PageImage.Run, of file: PageImage.File, _ task: UInt32, into buffer: PageBuffer) throws -> Int {
        if last?.task != task || last?.file != run.file { last = (task, run.file, PagesReader(file)) }
        buffer.clear(0)
        try last?.reader.eachPiece(of: run.offset..<(run.offset + UInt64(min(run.range.count, PageBuffer.capacity)))) { piece, part, offset in
            let address = run.range.lowerBound + offset - run.offset
            if let damage = Verification.damage(piece.checksums(of: part), of: file, at: offset, address, .init(task: task)) { throw CheckpointError("give", damage) }
            _ = buffer.append(piece, part)
        }
        return buffer.count
    }
}

/// Pages of processes that stand still after a lazy dump.
package final class FrozenPageSource: PageSource {
    private let pages: [UInt32: [Range<UInt64>]]
    /// - Parameter pages: by process, ascending, what was not saved.
    package init(_ pages: [UInt32: [Range<UInt64>]]) { self.pages = pages }

    package func read(_ range: Range<UInt64>, of task: UInt32, into buffer: PageBuffer) throws -> Int {
        guard let run = (pages[task] ?? []).first(where: { $0.contains(range.lowerBound) }) else { return 0 }
        let part = range.lowerBound..<min(range.upperBound, run.upperBound)
        let got = buffer.read(part, of: ThreadID(Int32(bitPattern: task)))
        if got > 0 { return got }
        let memory = try FileDescriptor.open("/proc/\(task)/mem", O_RDONLY)
        return buffer.inspect(part.lowerBound..<(part.lowerBound + 4096), memory)
    }
}
