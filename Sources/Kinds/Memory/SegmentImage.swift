import CLinux
import Glibc
import ImageMessages
import Images
package import Linux

/// The content of a shared segment in the images: pagemap-shmem-ID.img and the pages files it names, also those of parents
/// (format README, 9.4, 9.5).
package struct SegmentImage {
    private static let page: UInt64 = 4096, present: UInt32 = 4, parent: UInt32 = 1
    private struct Run {
        /// Bytes of the segment, whole pages; where they lie in the pages file.
        var range: Range<UInt64>, pages: FileDescriptor, offset: UInt64
    }
    private var runs: [Run] = []
    private let size: UInt64, name: String

    /// Nil when the images have nothing for it: an empty segment.
    package init?(shmid: UInt64, size: UInt64, _ context: RestoreContext) throws {
        self.size = size
        name = "pagemap-shmem-\(shmid).img"
        guard context.images.exists(name) else { return nil }
        runs = try Self.read(name, context.images, depth: 0)
        let end = (size + Self.page - 1) & ~(Self.page - 1)
        if let last = runs.last, last.range.upperBound > end {
            throw CheckpointError("restore", .image(name), "it has a page at \(last.range.upperBound - Self.page), the segment has \(size) bytes")
        }
    }

    private static func read(_ name: String, _ directory: ImageDirectory, depth: Int) throws -> [Run] {
        func bad(_ index: Int, _ cause: String) -> CheckpointError { CheckpointError("restore", .image(name), "entry \(index): \(cause)") }
        let (pagesID, entries) = try directory.pagemap(name)
        var pages: FileDescriptor?
        var runs = [Run](), older: [Run]?
        var offset: UInt64 = 0, last: UInt64 = 0
        for (index, entry) in entries.enumerated() {
            let count = entry.hasNrPages ? entry.nrPages : UInt64(entry.compatNrPages)
            let flags = entry.hasFlags ? entry.flags : entry.inParent ? parent : present
            guard entry.vaddr % page == 0, entry.vaddr >= last, entry.vaddr < 1 << 62, count < 1 << 50 else { throw bad(index, "offset \(entry.vaddr) is out of order or range") }
            let range = entry.vaddr..<(entry.vaddr + count * page)
            last = range.upperBound
            if flags & present != 0 {
                let file = try pages ?? FileDescriptor.open("pages-\(pagesID).img", O_RDONLY, at: directory.descriptor.number)
                pages = file
                runs.append(Run(range: range, pages: file, offset: offset))
                offset += count * page
            } else if flags & parent != 0 {
                guard depth < 1000 else { throw bad(index, "its parents never end") }
                let found = try older ?? read(name, ImageDirectory(FileDescriptor.open("parent", O_RDONLY | O_DIRECTORY, at: directory.descriptor.number)), depth: depth + 1)
                older = found
                let parts = found.filter { $0.range.overlaps(range) }.map { run in
                    let part = run.range.clamped(to: range)
                    return Run(range: part, pages: run.pages, offset: run.offset + part.lowerBound - run.range.lowerBound)
                }
                guard parts.reduce(0, { $0 + $1.range.count }) == range.count else { throw bad(index, "it is not in the parent directory") }
                runs += parts
            } else { throw bad(index, "it has no pages here and none in a parent") }
        }
        if let pages, UInt64(clamping: try pages.status().size) < offset { throw CheckpointError("restore", .image("pages-\(pagesID).img"), "it is shorter than \(name) says", remedy: "copy the images again; the file was cut off") }
        return runs
    }

    /// Puts the pages into the memory file.
    /// - Parameter mapped: through a mapping: hugetlbfs has no write(2).
    package func fill(_ file: FileDescriptor, mapped: Bool) throws {
        if mapped { return try fillMapped(file) }
        for run in runs {
            guard let offset = Int(exactly: run.offset), let start = Int(exactly: run.range.lowerBound) else { throw CheckpointError("restore", .image(name), "its pages lie out of range") }
            try run.pages.seek(offset)
            try file.seek(start)
            try run.pages.copy(to: file, Int(min(run.range.upperBound, size) - run.range.lowerBound))
        }
    }

    private func fillMapped(_ file: FileDescriptor) throws {
        guard let length = Int(exactly: (size + Self.page - 1) & ~(Self.page - 1)), length > 0 else { return }
        let address = try Syscall.check("mmap", .fd(file.number)) { unsafe Syscall.raw(SYS_mmap, 0, length, 3, 1 /* MAP_SHARED */, Int(file.number), 0) }
        defer { _ = unsafe Syscall.raw(SYS_munmap, address, length) }
        for run in runs {
            var done = 0
            while done < run.range.count {
                let got = try Syscall.call(
                    "pread", SYS_pread64, Int(run.pages.number), address + Int(run.range.lowerBound) + done, min(run.range.count - done, 1 << 30), Int(run.offset) + done,
                    on: .fd(run.pages.number))
                if got == 0 { throw SyscallError("pread", .fd(run.pages.number), EIO) }
                done += got
            }
        }
    }
}
