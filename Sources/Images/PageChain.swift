public import ImageMessages

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
}

/// An image directory and its parents (format 9.4): what an incremental dump leaves out is in an older one.
public struct PageChain: Sendable {
    /// Newest first.
    public let directories: [ImageDirectory]
    public let pageSize: UInt64

    public init(_ newest: ImageDirectory, pageSize: UInt64 = 4096) throws(ImageError) {
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
            try directory.checkPagesFile(of: pagemap)
            pagemaps.append(pagemap)
            if !pagemap.runs.contains(where: { $0.flags.isDisjoint(with: [.present]) && $0.flags.contains(.parent) }) { break }
        }
        var older: [PageExtent] = []
        for level in pagemaps.indices.reversed() { older = try resolve(pagemaps[level], level: level, older: older) }
        return older
    }

    private func resolve(_ pagemap: Pagemap, level: Int, older: [PageExtent]) throws(ImageError) -> [PageExtent] {
        var extents: [PageExtent] = []
        var next = 0  // in `older`; both lists ascend
        for run in pagemap.runs {
            if run.flags.contains(.present) {
                extents.append(PageExtent(address: run.address, pages: run.pages, source: .file(level: level, name: pagemap.pagesFile, offset: run.fileOffset)))
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
                    extents.append(PageExtent(address: address, pages: pages, source: source))
                    address += pages * pageSize
                }
            } else if run.flags.contains(.lazy) {
                extents.append(PageExtent(address: run.address, pages: run.pages, source: .lazy))
            } else {
                throw ImageError(pagemap.file, field: "flags", "the pages at 0x\(String(run.address, radix: 16)) are said to be nowhere")
            }
        }
        return extents
    }
}
