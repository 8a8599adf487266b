import Glibc
import ImageMessages
import Images
import Kinds
import Linux

/// The images of one process, checked and at hand.
struct ProcessImages {
    let pstree: PstreeEntry
    let core: CoreEntry
    /// In the order of pstree, without the leader.
    let threads: [(id: Int32, core: CoreEntry)]
    let ids: TaskKobjIdsEntry
    let mm: MmEntry
    let fs: FsEntry
    let pages: PageImage

    var pid: Int32 { Int32(bitPattern: pstree.pid) }
    var isDead: Bool { core.tc.taskState == 2 }
    /// The set of cgroups of the process; nil where the dump ignored them.
    var cgroupSet: UInt32? {
        let set = core.threadCore.hasCgSet ? core.threadCore.cgSet : core.tc.cgSet
        return set == 0 ? nil : set
    }
}

/// Where each page of a process lies in its pages image.
struct PageImage {
    struct Run: Equatable { var range: Range<UInt64>, offset: UInt64 }
    /// Present pages, ascending.
    private(set) var runs: [Run] = []
    let file: FileDescriptor?
    let name: String
    var pages: UInt64 { runs.reduce(0) { $0 + UInt64($1.range.count) / 4096 } }

    static let empty = PageImage(file: nil, name: "")
    private init(file: FileDescriptor?, name: String) { (self.file, self.name) = (file, name) }

    init(_ entries: [PagemapEntry], pagesID: UInt32, directory: FileDescriptor, pagemap: String) throws {
        name = "pages-\(pagesID).img"
        var offset: UInt64 = 0
        for entry in entries {
            let flags = entry.hasFlags ? entry.flags : entry.inParent ? 1 : PageRuns.present
            let count = entry.hasNrPages ? entry.nrPages : UInt64(entry.compatNrPages)
            if flags & 1 != 0 { throw CheckpointError("restore", .image(pagemap), "pages are in a parent image: incremental images are not supported yet") }
            guard flags & PageRuns.present != 0 else {
                if flags & PageRuns.lazy != 0 { throw CheckpointError("restore", .image(pagemap), "pages are to be fetched lazily: --lazy-pages is not supported yet") }
                continue
            }
            let (length, overflow) = count.multipliedReportingOverflow(by: 4096)
            let (end, pastEnd) = entry.vaddr.addingReportingOverflow(length)
            guard !overflow, !pastEnd, end <= AddressSpace.end, entry.vaddr % 4096 == 0, runs.last.map({ $0.range.upperBound <= entry.vaddr }) ?? true else {
                throw CheckpointError("restore", .image(pagemap), "its entry for address 0x\(String(entry.vaddr, radix: 16)) is out of order or out of range")
            }
            if length > 0 { runs.append(Run(range: entry.vaddr..<end, offset: offset)) }
            offset += length
        }
        if offset == 0 { file = nil; return }
        let name = self.name
        let opened = try CheckpointError.about("restore", .image(name)) { try FileDescriptor.open(name, O_RDONLY, at: directory.number) }
        let size = try opened.status().size
        if UInt64(max(size, 0)) < offset { throw CheckpointError("restore", .image(name), "it has \(size) bytes where \(pagemap) needs \(offset): it is cut short") }
        file = opened
    }

    /// The runs within `ranges` (ascending), cut to them.
    func runs(within ranges: [Range<UInt64>]) -> [Run] {
        var found = [Run]()
        var at = 0
        for range in ranges {
            while at < runs.count, runs[at].range.upperBound <= range.lowerBound { at += 1 }
            var index = at
            while index < runs.count, runs[index].range.lowerBound < range.upperBound {
                let part = runs[index].range.clamped(to: range)
                found.append(Run(range: part, offset: runs[index].offset + part.lowerBound - runs[index].range.lowerBound))
                index += 1
            }
        }
        return found
    }
}
