import CLinux
import Glibc
import ImageMessages
import Images
package import Linux

/// The content of a shared segment in the images: pagemap-shmem-ID.img and the pages files it names, also those of parents
/// (format README, 9.4, 9.5).
package struct SegmentImage {
    private static let page: UInt64 = 4096
    private let pages: PageImage
    private let size: UInt64, name: String

    /// Nil when the images have nothing for it: an empty segment.
    package init?(shmid: UInt64, size: UInt64, _ context: RestoreContext) throws {
        self.size = size
        name = "pagemap-shmem-\(shmid).img"
        guard context.images.exists(name) else { return nil }
        let name = self.name
        pages = try CheckpointError.about("restore", .image(name)) { try PageImage(try context.pageChain(), .sharedPagemap, shmid) }
        guard pages.elsewhere.isEmpty else { throw CheckpointError("restore", .image(name), "it has pages that neither it nor a parent holds") }
        context.verification?.add(pages, pages.runs, of: .init(segment: shmid))
        let end = (size + Self.page - 1) & ~(Self.page - 1)
        if let last = pages.runs.last, last.range.upperBound > end {
            throw CheckpointError("restore", .image(name), "it has a page at \(last.range.upperBound - Self.page), the segment has \(size) bytes")
        }
    }

    /// Puts the pages into the memory file.
    /// - Parameter mapped: through a mapping: hugetlbfs has no write(2).
    package func fill(_ file: FileDescriptor, mapped: Bool) throws {
        if mapped { return try fillMapped(file) }
        for run in pages.runs {
            guard let offset = Int(exactly: run.offset), let start = Int(exactly: run.range.lowerBound) else { throw CheckpointError("restore", .image(name), "its pages lie out of range") }
            let from = pages.files[run.file].descriptor, end = min(run.range.upperBound, size)
            if pages.files[run.file].regions != nil {
                try PagesReader(pages.files[run.file]).eachPiece(of: run.offset..<(run.offset + end - run.range.lowerBound)) { buffer, part, at in
                    try buffer.write(part, to: file, at: run.range.lowerBound + at - run.offset)
                }
                continue
            }
            try from.seek(offset)
            try file.seek(start)
            try from.copy(to: file, Int(end - run.range.lowerBound))
        }
    }

    private func fillMapped(_ file: FileDescriptor) throws {
        guard let length = Int(exactly: (size + Self.page - 1) & ~(Self.page - 1)), length > 0 else { return }
        let memory = try MappedFile(file, count: length)
        for run in pages.runs {
            try PagesReader(pages.files[run.file]).eachPiece(of: run.offset..<(run.offset + UInt64(run.range.count))) { buffer, part, offset in
                memory.write(buffer.bytes(part), at: Int(run.range.lowerBound + offset - run.offset))
            }
        }
    }
}
