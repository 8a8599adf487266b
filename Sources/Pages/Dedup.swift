import CLinux
import Glibc
import ImageMessages
package import Images
import Kinds
import Linux

/// Frees pages that nobody reads any more: holes are punched in pages files, whose length and offsets stay (fallocate(2),
/// FALLOC_FL_PUNCH_HOLE; format 9.4). What is compressed is freed by the region, when nobody reads any page of it.
package enum Dedup {
    /// Frees the pages of parents that a newer directory of the chain has, too. Returns how many bytes.
    /// - Parameter newestOnly: whether only pages that the newest directory has are looked at.
    @discardableResult
    package static func run(_ chain: PageChain, newestOnly: Bool) throws -> UInt64 {
        var freed: UInt64 = 0
        for newer in chain.directories.indices.dropLast() where newer == 0 || !newestOnly {
            for name in try chain.directories[newer].names() {
                guard let (file, number) = ImageFile.pagemap(named: name) else { continue }
                let fresh = try present(chain, newer, file, number)
                for older in (newer + 1)..<chain.directories.count where chain.directories[older].exists(file, number) {
                    let directory = chain.directories[older]
                    let pagemap = try directory.checkedPagemap(file, number, pageSize: chain.pageSize)
                    let stale = overlaps(pagemap.runs.filter { $0.flags.contains(.present) }, fresh, chain.pageSize)
                    if stale.isEmpty { continue }
                    freed += try punch(pagemap.regions?.places(coveredBy: stale) ?? stale, in: pagemap.pagesFile, directory)
                }
            }
        }
        return freed
    }

    /// Frees all pages of a directory that was restored from, of processes and of shared memory.
    package static func freeAll(_ chain: PageChain) throws {
        for name in try chain.directories[0].names() {
            guard let (file, number) = ImageFile.pagemap(named: name) else { continue }
            try free(try PageImage(chain, file, number), chain)
        }
    }

    /// Frees pages that were read into place, in all files of an image.
    private static func free(_ image: PageImage, _ chain: PageChain) throws {
        for (index, file) in image.files.enumerated() {
            let ranges = image.runs.filter { $0.file == index }.map { $0.offset..<($0.offset + UInt64($0.range.count)) }
            _ = try punch(file.regions?.places(coveredBy: ranges) ?? ranges, in: file.name, chain.directories[file.level])
        }
    }

    private static func present(_ chain: PageChain, _ level: Int, _ file: ImageFile<PagemapEntry>, _ number: UInt64) throws -> [Range<UInt64>] {
        try chain.directories[level].checkedPagemap(file, number, pageSize: chain.pageSize).runs.filter { $0.flags.contains(.present) }
            .map { $0.address..<($0.address + $0.pages * chain.pageSize) }
    }

    /// Where the pages of `runs` that `fresh` has, too, lie in their file.
    private static func overlaps(_ runs: [PageRun], _ fresh: [Range<UInt64>], _ pageSize: UInt64) -> [Range<UInt64>] {
        var found = [Range<UInt64>]()
        var next = 0
        for run in runs {
            let range = run.address..<(run.address + run.pages * pageSize)
            while next < fresh.count, fresh[next].upperBound <= range.lowerBound { next += 1 }
            var index = next
            while index < fresh.count, fresh[index].lowerBound < range.upperBound {
                let part = fresh[index].clamped(to: range), start = run.fileOffset + part.lowerBound - run.address
                found.append(start..<(start + UInt64(part.count)))
                index += 1
            }
        }
        return found
    }

    private static func punch(_ ranges: [Range<UInt64>], in name: String, _ directory: ImageDirectory) throws -> UInt64 {
        try CheckpointError.about("free pages of", .image(name)) {
            let file = try FileDescriptor.open(name, O_RDWR, at: directory.descriptor.number)
            for range in ranges {
                // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                try Syscall.call("fallocate", SYS_fallocate, Int(file.number), 3, Int(range.lowerBound), range.count, on: .fd(file.number))
            }
            return ranges.reduce(0) { $0 + UInt64($1.count) }
        }
    }
}
