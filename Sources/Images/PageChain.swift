public import ImageMessages
public import Linux

/// Pages and where their content is: in a pages file of this directory or of one of its parents, or with a lazy page source.
public struct PageExtent: Hashable, Sendable {
    public enum Source: Hashable, Sendable {
        /// - Parameters:
        ///   - level: which directory of the chain; 0 is the newest.
        ///   - offset: in bytes.
        case file(level: Int, name: String, offset: UInt64)
        case lazy
    }
    public var address: UInt64
    public var pages: UInt64
    public var source: Source
    /// Whether a lazy page source may deliver them later (format 9.2, LAZY).
    public var mayBeLazy = false
}

/// An image directory and its parents (format 9.4): what an incremental dump leaves out is in an older one.
public struct PageChain: Sendable {
    /// Newest first.
    public let directories: [ImageDirectory]
    public let pageSize: UInt64
    /// Of a dump that only checked: there are no pages files.
    public let isWithoutContent: Bool
    /// Whether checksums are read with the pages, for a `Verification`.
    public let verifies: Bool

    public init(_ newest: ImageDirectory, pageSize: UInt64 = 4096, isWithoutContent: Bool = false, verifies: Bool = false) throws(ImageError) {
        (self.isWithoutContent, self.verifies) = (isWithoutContent, verifies)
        var directories = [newest]
        var met: Set<[UInt64]> = [try newest.identity()]
        while let parent = try directories[directories.count - 1].parent() {
            guard met.insert(try parent.identity()).inserted else {
                throw ImageError("parent", "it leads back to a directory of the same chain")
            }
            directories.append(parent)
        }
        self.directories = directories
        self.pageSize = pageSize
    }

    /// Where each dumped page of a task or shared segment is, ascending. Every pages file involved is long enough.
    public func extents(of file: ImageFile<PagemapEntry>, _ number: some BinaryInteger) throws(ImageError) -> [PageExtent] {
        // Levels above the first one that says nothing of its parent don't matter.
        var pagemaps: [Pagemap] = []
        for directory in directories {
            guard pagemaps.isEmpty || directory.exists(file, number) else { break }
            let pagemap = try directory.checkedPagemap(file, number, pageSize: pageSize)
            if !isWithoutContent { try directory.checkPagesFile(of: pagemap) }
            pagemaps.append(pagemap)
            if !pagemap.runs.contains(where: { $0.flags.isDisjoint(with: [.present]) && $0.flags.contains(.parent) }) { break }
        }
        var older: [PageExtent] = []
        for level in pagemaps.indices.reversed() { older = try resolve(pagemaps[level], level: level, older: older) }
        return older
    }

    func pagesFile(_ name: String, level: Int, _ regions: RegionIndex?) throws(ImageError) -> PageImage.File {
        let directory = directories[level]
        var checksums: PageChecksums?
        if verifies, let number = ImageKind.named(name)?.number {
            do throws(ImageError) { checksums = try PageChecksums(of: number, in: directory) } catch { throw error.inParent(level) }
        }
        return PageImage.File(name: name, descriptor: try directory.open(name), level: level, checksums: checksums, regions: regions)
    }

    private func resolve(_ pagemap: Pagemap, level: Int, older: [PageExtent]) throws(ImageError) -> [PageExtent] {
        var extents: [PageExtent] = []
        var next = 0  // in `older`; both lists ascend
        for run in pagemap.runs {
            if run.flags.contains(.present) {
                extents.append(PageExtent(address: run.address, pages: run.pages, source: .file(level: level, name: pagemap.pagesFile, offset: run.fileOffset), mayBeLazy: run.flags.contains(.lazy)))
            } else if run.flags.contains(.parent) {
                var address = run.address
                let end = run.address + run.pages * pageSize  // no overflow: checked when the pagemap was read
                while address < end {
                    while next < older.count, older[next].address + older[next].pages * pageSize <= address { next += 1 }
                    guard next < older.count, older[next].address <= address else {
                        let place = level == 0 ? "parent" : String(repeating: "parent/", count: level) + "parent"
                        throw ImageError(
                            pagemap.file, field: "vaddr", "0x\(String(address, radix: 16)) is said to be in \(place), which does not have it",
                            remedy: "restore with the directory of the dump this one was made against")
                    }
                    let found = older[next]
                    let skipped = (address - found.address) / pageSize
                    let pages = min(found.pages - skipped, (end - address) / pageSize)
                    var source = found.source
                    if case .file(let level, let name, let offset) = source { source = .file(level: level, name: name, offset: offset + skipped * pageSize) }
                    extents.append(PageExtent(address: address, pages: pages, source: source, mayBeLazy: found.mayBeLazy))
                    address += pages * pageSize
                }
            } else if run.flags.contains(.lazy) {
                extents.append(PageExtent(address: run.address, pages: run.pages, source: .lazy, mayBeLazy: true))
            } else {
                throw ImageError(pagemap.file, field: "flags", "the pages at 0x\(String(run.address, radix: 16)) are said to be nowhere")
            }
        }
        return extents
    }
}

/// Pages of a task or of a shared segment, with the files that hold them opened: those of the newest directory and of its parents.
public struct PageImage: Sendable {
    public struct Run: Equatable, Sendable {
        public var range: Range<UInt64>
        /// Index in `files`.
        public var file: Int
        /// Bytes from the file's beginning.
        public var offset: UInt64
        public init(range: Range<UInt64>, file: Int, offset: UInt64) { (self.range, self.file, self.offset) = (range, file, offset) }

        public func clamped(to part: Range<UInt64>) -> Run {
            let range = range.clamped(to: part)
            return Run(range: range, file: file, offset: offset + range.lowerBound - self.range.lowerBound)
        }
    }
    public struct File: Sendable {
        public let name: String, descriptor: FileDescriptor
        /// 0 is the newest directory's.
        public let level: Int
        /// Nil where nobody made any, or nobody wants them.
        public let checksums: PageChecksums?
        /// Of a compressed or encrypted file, whose descriptor is of no use to who does not know (`PagesReader`).
        public let regions: RegionIndex?

        /// As the file is now; fewer where it ends.
        func checksums(of range: Range<UInt64>) throws -> [UInt32] {
            if regions == nil { return try Checksum.ofPages(of: descriptor, range) }
            var sums = [UInt32]()
            try PagesReader(self, takesFreed: true).eachPiece(of: range) { buffer, part, _ in sums += buffer.checksums(of: part) }
            return sums
        }
    }
    /// Pages that are in a file, ascending.
    public private(set) var runs: [Run] = []
    /// Pages that only a lazy source has, ascending.
    public private(set) var elsewhere: [Range<UInt64>] = []
    /// Of `runs`: what may be delivered later.
    public private(set) var mayBeLazy: [Range<UInt64>] = []
    public private(set) var files: [File] = []

    public init(_ chain: PageChain, _ pagemap: ImageFile<PagemapEntry>, _ number: some BinaryInteger) throws(ImageError) {
        for extent in try chain.extents(of: pagemap, number) {
            let range = extent.address..<(extent.address + extent.pages * chain.pageSize)
            guard case .file(let level, let name, let offset) = extent.source else {
                Self.join(range, to: &elsewhere)
                continue
            }
            if extent.mayBeLazy { Self.join(range, to: &mayBeLazy) }
            let index: Int
            if chain.isWithoutContent { index = 0 } else if let known = files.firstIndex(where: { $0.level == level && $0.name == name }) { index = known } else {
                index = files.count
                let isPlain = ImageKind.named(name)?.kind.prefix == ImageKind.pages.prefix
                let regions = isPlain ? nil : try chain.directories[level].checkedPagemap(pagemap, number, pageSize: chain.pageSize).regions
                files.append(try chain.pagesFile(name, level: level, regions))
            }
            if let last = runs.last, last.range.upperBound == range.lowerBound, last.file == index, last.offset + UInt64(last.range.count) == offset {
                runs[runs.count - 1].range = last.range.lowerBound..<range.upperBound
            } else { runs.append(Run(range: range, file: index, offset: offset)) }
        }
    }

    private static func join(_ range: Range<UInt64>, to list: inout [Range<UInt64>]) {
        if let last = list.last, last.upperBound == range.lowerBound { list[list.count - 1] = last.lowerBound..<range.upperBound } else { list.append(range) }
    }

    /// How much memory they fill.
    public var bytes: UInt64 { runs.reduce(0) { $0 + UInt64($1.range.count) } }

    /// The bytes of a small range; nil where a page of it is in no file.
    public func content(of range: Range<UInt64>) throws -> [UInt8]? {
        var content = [UInt8]()
        for run in runs(within: [range]) {
            guard run.range.lowerBound == range.lowerBound + UInt64(content.count) else { return nil }
            content += try PagesReader(files[run.file]).bytes(run.offset..<(run.offset + UInt64(run.range.count)))
        }
        return content.count == range.count ? content : nil
    }

    /// The runs within `ranges` (ascending), cut to them.
    public func runs(within ranges: [Range<UInt64>]) -> [Run] {
        var found = [Run]()
        for range in ranges {
            var index = Self.first(of: runs.count, endingAfter: range.lowerBound) { runs[$0].range.upperBound }
            while index < runs.count, runs[index].range.lowerBound < range.upperBound {
                found.append(runs[index].clamped(to: range))
                index += 1
            }
        }
        return found
    }

    /// Those of `elsewhere` within a range, cut to it.
    public func elsewhere(within range: Range<UInt64>) -> [Range<UInt64>] {
        let first = Self.first(of: elsewhere.count, endingAfter: range.lowerBound) { elsewhere[$0].upperBound }
        return elsewhere[first...].prefix { $0.lowerBound < range.upperBound }.map { $0.clamped(to: range) }
    }

    private static func first(of count: Int, endingAfter address: UInt64, _ end: (Int) -> UInt64) -> Int {
        var low = 0, high = count
        while low < high {
            let middle = (low + high) / 2
            if end(middle) <= address { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
