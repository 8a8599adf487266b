import CLinux
import Glibc
package import ImageMessages
import Images
package import Linux

/// Memory that is a file of the kernel's own tmpfs or hugetlbfs: memfds, shared anonymous mappings, SysV segments. It is saved
/// once, whoever maps or opens it; tasks get it by descriptor. Format README, 8.3, 9.5, 11.6.
package enum SharedMemory {
    static let page: UInt64 = 4096

    // Dump.

    /// What is known of such files during a dump.
    private final class Known: DumpState {
        struct Inode: Hashable { let device: UInt64, number: UInt64 }
        /// Ids in memfd.img, and file ids of the entries made for mappings.
        var ids: [Inode: UInt32] = [:], mappingFiles: [Inode: UInt32] = [:]
        var segments: Set<UInt64>?
    }

    /// The file id of the MEMFD entry of a mapping: of a memfd or of shared anonymous memory.
    package static func memfdID(mapping: Mapping, of process: ThreadID, context: DumpContext) throws -> UInt32 {
        let path = mapping.mapFile(of: process)
        return try CheckpointError.about("dump", .mapping(mapping.start..<mapping.end, name: mapping.name, of: process)) {
            try memfdID(magicLink: path, name: mapping.name, context: context)
        }
    }

    /// The same for a magic link of proc(5) such as /proc/PID/map_files/A-B or /proc/PID/exe.
    /// - Parameter name: what the link reads.
    package static func memfdID(magicLink path: String, name: String, context: DumpContext) throws -> UInt32 {
        let known = context.state(of: Known.self)
        let status = try Files.status(path)
        let key = Known.Inode(device: status.device, number: status.inode)
        if let id = known.mappingFiles[key] { return id }
        let descriptor = try FileDescriptor.open(path, O_RDONLY)
        var entry = FileEntry()
        (entry.type, entry.id) = (.memfd, context.newFileID())
        (entry.memfd.id, entry.memfd.flags, entry.memfd.pos) = (entry.id, 0, 0)
        entry.memfd.fown = FileOwner.nobody
        entry.memfd.inodeID = try inodeID(of: descriptor, status, link: name, context)
        try context.add(entry)
        known.mappingFiles[key] = entry.id
        return entry.id
    }

    /// The id in memfd.img; the inode and its content are saved at the first call.
    static func inodeID(of descriptor: FileDescriptor, _ status: FileStatus, link: String, _ context: DumpContext) throws -> UInt32 {
        let known = context.state(of: Known.self)
        let key = Known.Inode(device: status.device, number: status.inode)
        if let id = known.ids[key] { return id }
        guard let name = Memfd.name(ofLink: link) else { throw CheckpointError("dump", .file(link), "it is no memory file that we know") }
        var inode = MemfdInodeEntry()
        (inode.name, inode.uid, inode.gid, inode.size) = (name, status.uid, status.gid, UInt64(clamping: status.size))
        inode.mode = status.mode
        inode.shmid = try newSegmentID(status.inode, known)
        inode.inodeID = UInt64(known.ids.count + 1)
        inode.seals = UInt32(truncatingIfNeeded: try descriptor.control(Memfd.getSeals))
        if let size = try FileSystemStatus(descriptor).hugePageSize { inode.hugetlbFlag = 4 | UInt32(size.trailingZeroBitCount) << 26 }
        try dumpSegment(descriptor, shmid: UInt64(inode.shmid), size: inode.size, context: context)
        try context.images.append("memfd.img", inode)
        let id = UInt32(known.ids.count + 1)
        known.ids[key] = id
        return id
    }

    /// The inode's number, as in CRIU's images. But memfds, huge pages and SysV segments are numbered each by themselves, and
    /// share the names pagemap-shmem-N: a number that is taken is replaced.
    private static func newSegmentID(_ inode: UInt64, _ known: Known) throws -> UInt32 {
        var taken = try known.segments ?? SysVSharedMemory.hostSegments()
        var id = UInt32(exactly: inode) ?? UInt32.max
        while !taken.insert(UInt64(id)).inserted { id = id > UInt32.max / 2 ? id - 1 : UInt32.max }
        known.segments = taken
        return id
    }

    /// Saves the data areas of a memory file: pagemap-shmem-ID.img and pages of its own, copied from kernel to kernel. Holes are left
    /// out. A file of holes alone has both images, without entries (CRIU's restore insists on them); one of size 0 has none.
    package static func dumpSegment(_ descriptor: FileDescriptor, shmid: UInt64, size: UInt64, context: DumpContext) throws {
        guard size > 0, context.readsContent else { return }
        guard size < UInt64(Int64.max) - page else { throw CheckpointError("dump", .object("shared memory \(shmid)"), "its size is \(size)") }
        let file = try descriptor.reopened(0)  // our own position
        let ranges = try dataRanges(file, size)
        context.statistics.shpagesScanned += (size + page - 1) / page
        if let receiver = context.receiver { return try send(ranges, of: file, shmid, to: receiver, context) }
        let pagesID = context.newPagesID()
        let pagemap = "pagemap-shmem-\(shmid).img"
        let entries = ranges.map { range in
            var entry = PagemapEntry()
            (entry.vaddr, entry.compatNrPages, entry.flags, entry.nrPages) = (range.lowerBound, 0, PageRuns.present, UInt64(range.count) / page)
            return entry
        }
        context.statistics.shpagesWritten += entries.reduce(0) { $0 + $1.nrPages }
        guard context.savesMemory else {
            var head = PagemapHead()
            head.pagesID = pagesID
            return try context.images.write(pagemap, [head] + entries)
        }
        let pages = try context.images.pagesFile(pagesID, pagemap: pagemap), image = pages.file
        pages.entries = entries
        try CheckpointError.about("write", .image(pages.name), remedy: "free space, or give another directory with -D") {
            if pages.isCopied { return try append(ranges, of: file, to: pages) }
            var total = 0
            for range in ranges {
                try file.seek(Int(range.lowerBound))
                try file.copy(to: image, Int(min(range.upperBound, size) - range.lowerBound))
                total += range.count
            }
            // The last page of a file whose size is not one of pages.
            try image.truncate(to: UInt64(total))
            try Syscall.call("fdatasync", SYS_fdatasync, Int(image.number), on: .fd(image.number))
            try pages.isWhole(UInt64(total))
        }
    }

    private static func append(_ ranges: [Range<UInt64>], of file: FileDescriptor, to pages: NewPagesFile) throws {
        try eachPiece(of: ranges, in: file) { try pages.append($1) }
        try pages.isWhole()
    }

    private static func send(_ ranges: [Range<UInt64>], of file: FileDescriptor, _ shmid: UInt64, to receiver: any PageReceiver, _ context: DumpContext) throws {
        _ = try receiver.open(.segment(shmid))
        try CheckpointError.about("send", .object("shared memory \(shmid)")) {
            try eachPiece(of: ranges, in: file) { piece, content in
                try receiver.put([.init(range: piece, flags: PageRuns.present, readable: true)], content)
                context.statistics.shpagesWritten += UInt64(piece.count) / page
            }
        }
    }

    private static func eachPiece(of ranges: [Range<UInt64>], in file: FileDescriptor, _ body: (Range<UInt64>, PageBuffer) throws -> Void) throws {
        let buffer = PageBuffer()
        for range in ranges {
            var at = range.lowerBound
            while at < range.upperBound {
                try buffer.fill(from: file, at: at, Int(clamping: range.upperBound - at))
                buffer.pad()  // a file whose size is not one of pages
                if buffer.count == 0 { throw SyscallError("pread", .fd(file.number), EIO) }
                try body(at..<(at + UInt64(buffer.count)), buffer)
                at += UInt64(buffer.count)
            }
        }
    }

    /// Where the file has data, in whole pages (lseek(2), SEEK_DATA, SEEK_HOLE).
    private static func dataRanges(_ file: FileDescriptor, _ size: UInt64) throws(SyscallError) -> [Range<UInt64>] {
        var ranges = [Range<UInt64>]()
        var at: UInt64 = 0
        while at < size {
            let start: Int
            do throws(SyscallError) { start = try file.seek(Int(at), 3 /* SEEK_DATA */) }
            catch {
                if error.errno == Errno(ENXIO) { break }
                throw error
            }
            let end = UInt64(try file.seek(start, 4 /* SEEK_HOLE */))
            let range = (UInt64(start) & ~(page - 1))..<((min(end, size) + page - 1) & ~(page - 1))
            if let last = ranges.last, last.upperBound >= range.lowerBound { ranges[ranges.count - 1] = last.lowerBound..<range.upperBound }
            else { ranges.append(range) }
            at = max(end, UInt64(start) + 1)
        }
        return ranges
    }

    // Restore.

    /// A memory file made again, held until all its users have theirs.
    package final class Inode {
        let entry: MemfdInodeEntry
        /// What memfd_create(2) gave: for reading and writing, and yet no open(2) for writing, so that the file can be executed
        /// while it is there (ETXTBSY, i_writecount).
        fileprivate let original: FileDescriptor
        private var isTaken = false
        fileprivate var sealed = false
        fileprivate init(_ entry: MemfdInodeEntry, _ original: FileDescriptor) { (self.entry, self.original) = (entry, original) }

        /// An open file of its own. The first that reads and writes is the original one: nothing tells it from others, and it
        /// was there first.
        func open(_ flags: UInt32) throws(SyscallError) -> FileDescriptor {
            if isTaken || flags & StatusFlags.accessMode != StatusFlags.readWrite { return try original.reopened(flags) }
            isTaken = true
            return try original.duplicate()
        }
        /// For a mapping: it shares the original open file where it may.
        fileprivate func openForMapping(_ mode: UInt32) throws(SyscallError) -> FileDescriptor {
            mode == StatusFlags.readWrite ? try original.duplicate() : try original.reopened(mode)
        }

        /// F_SEAL_FUTURE_WRITE would keep writable mappings, made before it, from being made again: it comes behind the mappings.
        /// F_SEAL_WRITE can't come behind mappings that could be made writable.
        var sealsLate: Bool { entry.seals & 0x18 == 0x10 }
        fileprivate func seal() throws(SyscallError) {
            if sealed { return }
            sealed = true
            if entry.seals != 0, entry.name != Memfd.anonymousName { try original.control(Memfd.addSeals, Int(entry.seals)) }
        }
    }
    private final class Inodes: DumpState {
        var entries: [UInt32: MemfdInodeEntry]?
        var made: [UInt32: Inode] = [:]
    }

    /// Opens the memory file of a MEMFD entry for a mapping: `mode` is the mapping's fdflags (0 reading, 2 both).
    package static func openForMapping(fileID id: UInt32, mode: UInt32, _ context: RestoreContext) throws -> FileDescriptor {
        let inode = try inode(ofFile: id, context)
        return try CheckpointError.about("restore", .object("shared memory, file id \(id)")) { try inode.openForMapping(mode & StatusFlags.accessMode) }
    }

    /// Whether the MEMFD entry stands for shared anonymous memory. Its descriptor is such memory, too: maps show "/dev/zero (deleted)".
    package static func isAnonymousShared(_ id: UInt32, _ context: RestoreContext) throws -> Bool {
        try entry(try inodeID(ofFile: id, context), context).name == Memfd.anonymousName
    }

    /// When every mapping exists: seals that would have forbidden some.
    static func finishRestore(_ context: RestoreContext) throws {
        for (_, inode) in context.state(of: Inodes.self).made.sorted(by: { $0.key < $1.key }) {
            try CheckpointError.about("restore", .object("the seals of memfd '\(inode.entry.name)'")) { try inode.seal() }
        }
        context.state(of: Inodes.self).made = [:]
    }

    private static func inodeID(ofFile id: UInt32, _ context: RestoreContext) throws -> UInt32 {
        guard let file = context.files[id], file.hasMemfd else { throw CheckpointError("restore", .image("files.img"), "file id \(id), which a mapping names, is not a memfd there") }
        return file.memfd.inodeID
    }
    private static func inode(ofFile id: UInt32, _ context: RestoreContext) throws -> Inode { try inode(try inodeID(ofFile: id, context), context) }

    private static func entry(_ id: UInt32, _ context: RestoreContext) throws -> MemfdInodeEntry {
        let known = context.state(of: Inodes.self)
        let entries = try known.entries ?? Dictionary(
            context.images.all("memfd.img", MemfdInodeEntry.self, optional: true).map { (UInt32(truncatingIfNeeded: $0.inodeID), $0) }, uniquingKeysWith: { first, _ in first })
        known.entries = entries
        guard let found = entries[id] else { throw CheckpointError("restore", .image("memfd.img"), "inode \(id), which files.img names, is not there") }
        return found
    }

    static func inode(_ id: UInt32, _ context: RestoreContext) throws -> Inode {
        let known = context.state(of: Inodes.self)
        if let made = known.made[id] { return made }
        let entry = try entry(id, context)
        let made = try CheckpointError.about("restore", .object("memory file '\(entry.name)' (inode \(id) of memfd.img)")) { try make(entry, context) }
        known.made[id] = made
        return made
    }

    private static func make(_ entry: MemfdInodeEntry, _ context: RestoreContext) throws -> Inode {
        guard let size = Int(exactly: entry.size), entry.size < UInt64(Int64.max) - page else { throw CheckpointError("restore", .image("memfd.img"), "the size \(entry.size) is not one of a file") }
        let isHuge = entry.hasHugetlbFlag && entry.hugetlbFlag & 4 != 0
        let file = entry.name == Memfd.anonymousName ? try anonymous(size, huge: isHuge ? entry.hugetlbFlag : 0) : try memfd(entry, huge: isHuge ? entry.hugetlbFlag : 0)
        let now = try file.status()
        if now.size != Int64(size) { try file.truncate(to: UInt64(size)) }
        try SegmentImage(shmid: UInt64(entry.shmid), size: entry.size, context)?.fill(file, mapped: isHuge)
        if entry.uid != now.uid || entry.gid != now.gid { try Syscall.call("fchown", SYS_fchown, Int(file.number), Int(entry.uid), Int(entry.gid), on: .fd(file.number)) }
        if entry.hasMode, entry.mode != now.mode { try Syscall.call("fchmod", SYS_fchmod, Int(file.number), Int(entry.mode & 0o7777), on: .fd(file.number)) }
        let inode = Inode(entry, file)
        if !inode.sealsLate { try inode.seal() }
        return inode
    }

    private static func memfd(_ entry: MemfdInodeEntry, huge: UInt32) throws(SyscallError) -> FileDescriptor {
        try FileDescriptor.memory(entry.name, flags: 2 /* MFD_ALLOW_SEALING */ | huge & (4 | 0x3f << 26), executable: true)
    }

    private static func anonymous(_ size: Int, huge: UInt32) throws -> FileDescriptor {
        guard size > 0 else { throw CheckpointError("restore", .image("memfd.img"), "shared anonymous memory of size 0") }
        let length = (size + Int(page) - 1) & ~(Int(page) - 1)
        return try MappedFile.sharedMemory(length, flags: 0x4000 /* MAP_NORESERVE */ | (huge == 0 ? 0 : 0x40000 | Int(huge & 0x3f << 26)))
    }
}

/// What fstatfs(2) tells of a file's filesystem.
package struct FileSystemStatus {
    package let type: UInt64, blockSize: UInt64
    /// What users without privileges can still write.
    package let freeBytes: UInt64
    package init(_ descriptor: FileDescriptor) throws(SyscallError) {
        var raw = [UInt8](repeating: 0, count: 256)
        try Syscall.call("fstatfs", SYS_fstatfs, bytes: &raw, at: 1, Int(descriptor.number), on: .fd(descriptor.number))
        func word(_ at: Int) -> UInt64 { (0..<8).reduce(0) { $0 | UInt64(raw[at * 8 + $1]) << (8 * $1) } }
        (type, blockSize, freeBytes) = (word(0), word(1), word(4).multipliedReportingOverflow(by: word(1)).partialValue)
    }
    /// The size of its pages, when it is a hugetlbfs (HUGETLBFS_MAGIC, linux/magic.h).
    package var hugePageSize: UInt64? { type == 0x9584_58f6 ? blockSize : nil }
    /// Whether its files are nowhere but in memory (TMPFS_MAGIC).
    package var isTmpfs: Bool { type == 0x0102_1994 }
}

extension FileOwner {
    /// An owner field where there is no owner.
    package static var nobody: FownEntry {
        var entry = FownEntry()
        (entry.uid, entry.euid, entry.signum, entry.pidType, entry.pid) = (0, 0, 0, 0, 0)
        return entry
    }
}

extension FileDescriptor {
    /// Copies `count` bytes from the position of this file to the position of another: sendfile(2), or read and write where the
    /// filesystem can't.
    package func copy(to other: FileDescriptor, _ count: Int) throws(SyscallError) {
        var left = count
        while left > 0 {
            let done: Int
            do throws(SyscallError) { done = try Syscall.call("sendfile", SYS_sendfile, Int(other.number), Int(number), 0, min(left, 0x7fff_f000), on: .fd(number)) }
            catch {
                guard error.errno == Errno(EINVAL) else { throw error }
                return try copyThroughBuffer(to: other, left)
            }
            if done == 0 { throw SyscallError("sendfile", .fd(number), EIO) }  // shorter than it was said to be
            left -= done
        }
    }
    private func copyThroughBuffer(to other: FileDescriptor, _ count: Int) throws(SyscallError) {
        var left = count
        while left > 0 {
            let bytes = try read(min(left, 1 << 20))
            if bytes.isEmpty { throw SyscallError("read", .fd(number), EIO) }
            try other.write(bytes)
            left -= bytes.count
        }
    }
}
