public import ImageMessages

/// Pages that belong together: adjacent in memory and, where they are in the file, adjacent there too.
public struct PageRun: Hashable, Sendable {
    /// Format 9.2.
    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        /// The pages are in the parent directory, at the same addresses.
        public static let parent = Flags(rawValue: 1)
        /// The pages may come later.
        public static let lazy = Flags(rawValue: 2)
        /// The pages are in the pages file.
        public static let present = Flags(rawValue: 4)
    }
    /// First byte; in a shared segment the offset from its start.
    public var address: UInt64
    public var pages: UInt64
    public var flags: Flags
    /// Where the pages are in the pages file, in bytes. Only with `.present`.
    public var fileOffset: UInt64
}

/// A pagemap image, read and checked: runs ascend, don't overlap, don't overflow.
public struct Pagemap: Sendable {
    public var file: String
    public var pagesFile: String
    public var pageSize: UInt64
    public var runs: [PageRun]
    /// Bytes of pages: the size that the pages file must have, unless it has regions.
    public var bytesInPagesFile: UInt64
    /// Of a compressed or encrypted pages file.
    public var regions: RegionIndex?
}

extension ImageDirectory {
    /// `.pagemap` of a task (by pid) or `.sharedPagemap` of a segment (by shmem id).
    public func checkedPagemap(_ file: ImageFile<PagemapEntry>, _ number: some BinaryInteger, pageSize: UInt64 = 4096) throws(ImageError) -> Pagemap {
        var reader = try reader(file, number)
        let head = try reader.single(PagemapHead.self)
        let kind = !head.hasCompression ? ImageKind.pages : reader.seal == nil ? .compressedPages : .sealedPages
        var pagemap = Pagemap(file: reader.name, pagesFile: kind.name(UInt64(head.pagesID)), pageSize: pageSize, runs: [], bytesInPagesFile: 0)
        var end: UInt64 = 0
        while let entry = try reader.next(PagemapEntry.self) {
            func refused(_ field: String, _ problem: String) -> ImageError { ImageError(reader.name, entry: reader.entry - 1, field: field, problem) }
            let flags = entry.hasFlags ? PageRun.Flags(rawValue: entry.flags) : entry.inParent ? .parent : .present
            let pages = entry.hasNrPages ? entry.nrPages : UInt64(entry.compatNrPages)
            guard flags.rawValue & ~7 == 0 else { throw refused("flags", "0x\(String(entry.flags, radix: 16)) has unknown bits") }
            guard entry.vaddr % pageSize == 0 else { throw refused("vaddr", "0x\(String(entry.vaddr, radix: 16)) is not the address of a page") }
            guard entry.vaddr >= end else { throw refused("vaddr", "0x\(String(entry.vaddr, radix: 16)) is below the end of the entry before, 0x\(String(end, radix: 16))") }
            let (bytes, tooMany) = pages.multipliedReportingOverflow(by: pageSize)
            let (runEnd, pastEnd) = entry.vaddr.addingReportingOverflow(bytes)
            let (fileEnd, tooLong) = pagemap.bytesInPagesFile.addingReportingOverflow(bytes)
            guard !tooMany, !pastEnd, !tooLong, fileEnd <= UInt64(Int64.max) else { throw refused("nr_pages", "\(pages) pages are more than an address space holds") }
            end = runEnd
            if pages == 0 { continue }
            pagemap.runs.append(PageRun(address: entry.vaddr, pages: pages, flags: flags, fileOffset: pagemap.bytesInPagesFile))
            if flags.contains(.present) { pagemap.bytesInPagesFile = fileEnd }
        }
        let seal = reader.seal.map { RegionSeal($0.key, $0.head, pages: pagemap.pagesFile) }
        pagemap.regions = try RegionIndex(head, reader.name, bytes: pagemap.bytesInPagesFile, seal)
        return pagemap
    }

    /// Fails when the pages file is missing or shorter than its pagemap says.
    public func checkPagesFile(of pagemap: Pagemap) throws(ImageError) {
        if pagemap.bytesInPagesFile == 0, !exists(pagemap.pagesFile) { return }
        let size = try size(of: pagemap.pagesFile), needed = pagemap.regions?.fileEnd ?? pagemap.bytesInPagesFile
        guard size >= needed else {
            throw ImageError(
                pagemap.pagesFile, "it has \(size) bytes where \(pagemap.file) needs \(needed): it is cut short",
                remedy: "copy the images again")
        }
    }
}
