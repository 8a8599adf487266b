public import ImageMessages
import Linux
import Synchronization

/// Holds images against their checksums, on threads of its own, beside whatever else is done with them; a few at once, for a thread takes longer to
/// begin. Pages without checksums (CRIU's) are counted, and otherwise taken as they are.
public final class Verification: Sendable {
    /// How much was looked at.
    public struct Count: Equatable, Sendable {
        public var files = 0, pages: UInt64 = 0
        /// Pages that nobody has checksums of.
        public var unknownPages: UInt64 = 0
        /// Pages that were freed, and are not wanted any more.
        public var freedPages: UInt64 = 0
    }
    /// Whose pages they are.
    public struct Owner: Sendable {
        /// "task 42".
        let name: String
        /// What the owner has at an address: a mapping.
        let place: @Sendable (UInt64) -> String
        public init(task: UInt32, _ place: @escaping @Sendable (UInt64) -> String = { _ in "" }) { (name, self.place) = ("task \(task)", place) }
        public init(segment: UInt64) { (name, place) = ("shared memory \(segment)", { _ in "" }) }

        func page(at address: UInt64) -> String {
            let place = place(address)
            return "the page at \(hex(address)) of \(name)" + (place.isEmpty ? "" : ", in \(place),")
        }
    }

    private let workers = Workers()
    private let state = Mutex((findings: Findings(), count: Count()))
    private static let piece: UInt64 = 4 << 20
    /// So many images, none of them larger than a small piece, and a small piece of pages are looked at without another thread.
    private static let fewImages = 50, smallPiece = 256 << 10

    public init() {}

    public var count: Count { state.withLock { $0.count } }

    /// Every image that checksums.img names. `level` is the directory's place in a chain, 0 the newest.
    public func add(_ checksums: FileChecksums, of directory: ImageDirectory, level: Int = 0) {
        let isSmall = checksums.entries.count <= Self.fewImages && checksums.entries.allSatisfy { $0.size <= Self.smallPiece }
        run(atOnce: isSmall) { [self] in
            for error in checksums.problems(in: directory) { note(error.inParent(level)) }
            state.withLock { $0.count.files += checksums.entries.count }
        }
    }

    /// Pages that are wanted: of `image`, those of `runs`.
    public func add(_ image: PageImage, _ runs: [PageImage.Run], of owner: Owner) {
        for (index, file) in image.files.enumerated() {
            let mine = runs.filter { $0.file == index }
            guard let checksums = file.checksums else {
                state.withLock { $0.count.unknownPages += mine.reduce(0) { $0 + UInt64($1.range.count) / 4096 } }
                continue
            }
            let pieces = Self.pieces(mine.map { $0.offset..<($0.offset + UInt64($0.range.count)) }), isSmall = pieces.reduce(0) { $0 + $1.count } <= Self.smallPiece
            for range in pieces {
                run(atOnce: isSmall) { [self] in
                    check(range, of: file, checksums) { page in
                        guard let run = mine.first(where: { $0.offset <= page && page < $0.offset + UInt64($0.range.count) }) else { return "" }
                        return owner.page(at: run.range.lowerBound + page - run.offset)
                    }
                }
            }
        }
    }

    private func run(atOnce: Bool, _ job: @escaping @Sendable () -> Void) { if atOnce { job() } else { workers.run(job) } }

    /// Waits; everything that was found.
    public func problems() -> [ImageError] {
        try? workers.finish()
        return state.withLock { $0.findings.errors }
    }

    /// Waits; throws what was found first.
    public func finish() throws(ImageError) { if let first = problems().first { throw first } }

    /// Looks at nothing more. What was found up to now.
    public func stop() -> ImageError? {
        workers.cancel()
        return state.withLock { $0.findings.errors.first }
    }

    /// Of pages from `address` on, read at `offset` of a file, with these checksums now: the first that is not as it was dumped.
    public static func damage(_ now: [UInt32], of file: PageImage.File, at offset: UInt64, _ address: UInt64, _ owner: Owner) -> ImageError? {
        guard let sums = file.checksums?.sums else { return nil }
        let first = Int(offset / 4096)
        guard let bad = now.indices.first(where: { first + $0 >= sums.count || now[$0] != sums[first + $0] }) else { return nil }
        return damage(owner.page(at: address + UInt64(bad) * 4096), of: file, at: offset + UInt64(bad) * 4096, isEmpty: now[bad] == Checksum.ofZeros)
    }

    private static func damage(_ page: String, of file: PageImage.File, at offset: UInt64, isEmpty: Bool) -> ImageError {
        let problem = isEmpty ? " is gone: it was freed (dedup, --auto-dedup), or lost" : " is not as it was dumped: its checksum differs"
        return ImageError(file.name, offset: offset, page + problem, remedy: PageChecksums.remedy).inParent(file.level)
    }

    // MARK: on a worker

    private func note(_ error: ImageError) { state.withLock { $0.findings.add(error) } }

    private func check(_ range: Range<UInt64>, of file: PageImage.File, _ checksums: PageChecksums, mayBeFreed: Bool = false, _ page: (UInt64) -> String) {
        let first = Int(range.lowerBound / 4096), count = range.count / 4096
        func refuse(_ problem: String, at offset: UInt64? = nil) {
            note(ImageError(file.name, offset: offset, problem, remedy: PageChecksums.remedy).inParent(file.level))
        }
        guard checksums.sums.count >= first + count else { return refuse("it has pages of which there are no checksums") }
        let sums: [UInt32]
        do { sums = try file.checksums(of: range) } catch let error as ImageError { return note(error.inParent(file.level)) } catch { return refuse("it can't be read: \(error)") }
        var freed: UInt64 = 0
        for index in 0..<count {
            let offset = range.lowerBound + UInt64(index) * 4096
            guard index < sums.count else {
                refuse("\(page(offset)) is not there: the file ends before it", at: offset)
                break
            }
            if sums[index] == checksums.sums[first + index] { continue }
            let isEmpty = sums[index] == Checksum.ofZeros
            if isEmpty && mayBeFreed { freed += 1; continue }
            note(Self.damage(page(offset), of: file, at: offset, isEmpty: isEmpty))
        }
        state.withLock {
            $0.count.pages += UInt64(count)
            $0.count.freedPages += freed
        }
    }

    /// Joined where they touch, and cut into pieces for one job each.
    private static func pieces(_ ranges: [Range<UInt64>]) -> [Range<UInt64>] {
        ranges.merged().flatMap { range in
            stride(from: range.lowerBound, to: range.upperBound, by: Int(piece)).map { $0..<min($0 + piece, range.upperBound) }
        }
    }
}

extension ImageError {
    /// The same of a file in a parent directory, `level` steps up.
    func inParent(_ level: Int) -> ImageError {
        level == 0 ? self : ImageError(String(repeating: "parent/", count: level) + file, entry: entry, field: field, offset: offset, cause, remedy: remedy, errno: errno)
    }
}

extension Verification {
    /// `stasis verify`: all there is in a directory and its parents.
    public static func whole(_ newest: ImageDirectory) throws(ImageError) -> Verification {
        let verification = Verification()
        let chain = try PageChain(newest, verifies: true)
        for (level, directory) in chain.directories.enumerated() {
            let names: [String] = try directory.names()
            if let checksums = try FileChecksums(of: directory) { verification.add(checksums, of: directory, level: level) }
            // A page server's directory has them for pages alone.
            else if !names.contains(where: { ImageKind.named($0)?.kind.prefix == ImageFile.pageChecksums.kind.prefix }) {
                verification.note(ImageError(ImageFile.checksums.name, "it is missing: CRIU wrote this directory, or Stasis before it made checksums").inParent(level))
            }
            if level > 0 { for name in names { verification.addReplaced(name, chain, level) } }
        }
        try verification.addPages(of: chain, try? ImageSet(newest))
        return verification
    }

    /// Every page that a restore of the newest directory would read.
    public func addPages(of chain: PageChain, _ set: ImageSet?) throws(ImageError) {
        for name in try chain.directories[0].names() {
            guard let (file, number) = ImageFile.pagemap(named: name) else { continue }
            do throws(ImageError) {
                let image = try PageImage(chain, file, number), pid = UInt32(truncatingIfNeeded: number)
                let isTask = file.kind.prefix == ImageFile.pagemap.kind.prefix
                add(image, image.runs, of: isTask ? Owner(task: pid) { set?.mapping(at: $0, of: pid) ?? "" } : Owner(segment: number))
            } catch { note(error) }
        }
    }

    /// Pages of a parent that newer images may have replaced: those that were freed are no harm.
    private func addReplaced(_ name: String, _ chain: PageChain, _ level: Int) {
        guard let (file, number) = ImageFile.pagemap(named: name) else { return }
        do throws(ImageError) {
            let directory = chain.directories[level]
            let pagemap = try directory.checkedPagemap(file, number)
            try directory.checkPagesFile(of: pagemap)
            if pagemap.bytesInPagesFile == 0 { return }
            let pages = try chain.pagesFile(pagemap.pagesFile, level: level, pagemap.regions)
            guard let checksums = pages.checksums else { return state.withLock { $0.count.unknownPages += pagemap.bytesInPagesFile / 4096 } }
            for range in Self.pieces([0..<pagemap.bytesInPagesFile]) {
                workers.run { [self] in check(range, of: pages, checksums, mayBeFreed: true) { "page \($0 / 4096)" } }
            }
        } catch { note(error.inParent(level)) }
    }
}

extension Verification {
    /// Encrypted images of a directory and its parents, without any key: whether the files are as they were written. Their pages can't be
    /// looked at.
    public static func sealed(_ newest: ImageDirectory) throws(ImageError) -> Verification {
        let verification = Verification()
        for (level, directory) in try PageChain(newest).directories.enumerated() {
            for name in try directory.names() where ImageKind.named(name).map({ !$0.kind.isPages }) ?? false {
                verification.workers.run {
                    do throws(ImageError) {
                        if try directory.isSealedWell(name) { verification.state.withLock { $0.count.files += 1 } }
                    } catch { verification.note(error.inParent(level)) }
                }
            }
        }
        return verification
    }
}

extension ImageFile where Entry == PagemapEntry {
    /// A pagemap image's kind and number.
    public static func pagemap(named name: String) -> (Self, UInt64)? {
        guard let (kind, number) = ImageKind.named(name), kind.layout == .pagemap else { return nil }
        return (kind.prefix == sharedPagemap.kind.prefix ? .sharedPagemap : .pagemap, number)
    }
}
