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
    private let compression: Compression?, isDirect: Bool
    private let frees: Bool, flushes: Bool, sums: Bool, replaces: Bool
    private let source: (any PageSource)?
    private let log: Log
    private let input: PageInput
    /// Pages of the current subject that are not in its file yet.
    private let buffer = PageBuffer()
    /// Pages on their way to who has asked for them, or over older ones.
    private let given = PageBuffer()
    private let workers = Workers()
    private let recipients: ImageRecipients, secrets: ImageSecrets
    /// What images are encrypted with, from the first one on.
    private var seal: ImageSeal?

    private var nextPagesID: UInt32 = 0x10001
    private var files: [PageSubject: Incoming] = [:]
    private var current: PageSubject?
    private var names: [String] = []
    /// Of pages that came.
    package private(set) var bytes: UInt64 = 0

    /// The images of one subject while they come in.
    private final class Incoming {
        let pages: NewPagesFile
        /// Whose pages are replaced.
        let older: OlderPages?
        var end: UInt64 = 0, isClosed = false
        private(set) var entries = PageEntries()
        init(_ pages: NewPagesFile, _ older: OlderPages?) { (self.pages, self.older) = (pages, older) }
        func note(_ range: Range<UInt64>, flags: UInt32) { entries.add(range, flags) }
    }

    /// Pages of the directories before, to be written over.
    private final class OlderPages {
        let image: PageImage
        private var files: [Int: FileDescriptor] = [:]
        init(_ image: PageImage) { self.image = image }

        func replace(_ run: PageImage.Run, by content: PageBuffer) throws {
            let file = try files[run.file] ?? FileDescriptor.open(image.files[run.file].descriptor.procPath, O_RDWR)
            files[run.file] = file
            try content.write(to: file, at: run.offset)
        }
    }

    /// - Parameters:
    ///   - compression: how pages are compressed.
    ///   - directly: whether pages go past the page cache.
    ///   - frees: --auto-dedup: pages that come again are freed in the parent directories.
    ///   - flushes: whether everything is on the disk before the other end is told so.
    ///   - sums: whether pages get checksums.
    ///   - replaces: whether pages that come again take the place of those in older directories, which are good for nothing by themselves then.
    ///   - recipients: for whom the images are encrypted.
    ///   - secrets: open encrypted images, for pages to be freed there.
    ///   - source: where pages that are asked for are; nil: nowhere.
    package init(
        _ connection: PageConnection, images: FileDescriptor, compression: Compression? = nil, directly: Bool = false, frees: Bool = false, flushes: Bool = true, sums: Bool = true, replaces: Bool = false, recipients: ImageRecipients = .nobody, secrets: ImageSecrets = .none,
        source: (any PageSource)? = nil, _ log: Log
    ) {
        (self.compression, isDirect) = (compression, directly)
        (self.recipients, self.secrets) = (recipients, secrets)
        (self.connection, self.images, self.frees, self.flushes, self.sums, self.replaces, self.source, self.log) = (connection, images, frees, flushes, sums, replaces, source, log)
        input = PageInput(connection.input)
    }

    private func refused(_ cause: String) -> CheckpointError { CheckpointError("serve", .object("the connection"), cause) }

    private var speaksTLS: CheckpointError { CheckpointError("serve", .object("the connection"), "what came is TLS", remedy: "--tls here, too") }

    /// - Returns: whether the other end said that it is done.
    @discardableResult
    package func serve() throws -> Bool {
        do {
            while let bytes = try input.request() {
                guard let request = PageRequest(bytes) else { throw bytes.starts(with: [22, 3]) ? speaksTLS : refused("what came is no request of a page server: \(bytes.prefix(4).map { String($0, radix: 16) })") }
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
                    if request.command == .close {
                        connection.output.sayEnd()
                        _ = try? connection.input.readSome(1)
                    }
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
        let pagesID = nextPagesID
        nextPagesID += 1
        try CheckpointError.about("write", .image(name)) {
            if seal == nil, let made = try recipients.sealForPageServer(images) {
                names.append(made.keyImage)
                seal = made
            }
            let pages = try NewPagesFile(pagesID, pagemap: name, in: images, workers, compression, seal, directly: isDirect, summed: sums)
            names += [name, pages.name, ImageFile.pageChecksums.name(pagesID)]
            files[subject] = Incoming(pages, try older(subject))
        }
        if let before = current { try close(before) }
        current = subject
        if request.command == .openWithAnswer { try connection.output.writeAll([try hasParent(subject) ? 1 : 0]) }
    }

    private func older(_ subject: PageSubject) throws -> OlderPages? {
        guard replaces, let parent = try ImageDirectory(images).parent(), parent.exists(subject.file, subject.number) else { return nil }
        return OlderPages(try PageImage(try PageChain(parent), subject.file, subject.number))
    }

    private func close(_ subject: PageSubject) throws {
        guard let file = files[subject], !file.isClosed else { return }
        try store(file)
        file.isClosed = true
        file.pages.entries = file.entries.entries
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
        guard flags & PageRuns.present != 0 else { return file.note(range, flags: flags) }
        bytes += UInt64(range.count)
        var at = range.lowerBound
        for run in file.older?.image.runs(within: [range]) ?? [] {
            try take(at..<run.range.lowerBound, flags, file, subject)
            try replace(run, file, subject)
            at = run.range.upperBound
        }
        try take(at..<range.upperBound, flags, file, subject)
    }

    private func take(_ range: Range<UInt64>, _ flags: UInt32, _ file: Incoming, _ subject: PageSubject) throws {
        if range.isEmpty { return }
        file.note(range, flags: flags)
        var left = UInt64(range.count)
        while left > 0 {
            if buffer.isFull { try store(file) }
            let length = Int(min(left, UInt64(buffer.room)))
            guard try input.append(length, to: buffer) else { throw refused("it ended within the pages of \(subject)") }
            left -= UInt64(length)
        }
    }

    private func replace(_ run: PageImage.Run, _ file: Incoming, _ subject: PageSubject) throws {
        file.note(run.range, flags: PageRuns.parent)
        var left = run
        while !left.range.isEmpty {
            given.clear(0)
            let length = min(left.range.count, PageBuffer.capacity)
            guard try input.append(length, to: given) else { throw refused("it ended within the pages of \(subject)") }
            try CheckpointError.about("write", .object("pages of \(subject) over older ones")) { try file.older?.replace(left, by: given) }
            left = left.clamped(to: (left.range.lowerBound + UInt64(length))..<left.range.upperBound)
        }
    }

    private func store(_ file: Incoming) throws {
        if buffer.count == 0 { return }
        try CheckpointError.about("write", .image(file.pages.name), remedy: "free space there") { try file.pages.append(buffer) }
        buffer.clear(0)
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
        do { _ = try Dedup.run(try PageChain(try ImageDirectory(images, secrets)), newestOnly: true) } catch { log.warn("--auto-dedup: \(error)") }
    }

    /// As many pages as lie together from the one that is asked for.
    private func give(_ request: PageRequest) throws {
        guard let source else { throw refused("pages are asked for, but this server only takes them") }
        guard let task = UInt32(exactly: request.subject), let range = request.range, !range.isEmpty else {
            throw refused("\(request.pages) pages at 0x\(String(request.address, radix: 16)) of task \(request.subject) can't be given")
        }
        let count = try source.read(range, of: task, into: given)
        guard count > 0 else { throw refused("the page at 0x\(String(range.lowerBound, radix: 16)) of task \(task) is not here") }
        try connection.send(PageRequest(.addWithFlags, flags: UInt16(PageRuns.present), pages: UInt64(count) / 4096, address: range.lowerBound, subject: request.subject))
        try given.send(over: connection.output)
    }
}
