import Cryptography
import Glibc
public import ImageMessages
public import Linux
import Synchronization

/// A pages file that is being written: by whomever, as it stands (`file`, `grew`), or by us, piece by piece, compressed and encrypted if
/// wanted (`append`). Its checksums are made beside that by workers, from what the file then holds or from what is compressed.
public final class NewPagesFile {
    public let number: UInt32
    public let name: String
    /// The image that says where the pages belong.
    public let pagemap: String
    /// What it will hold; nil where somebody else writes it.
    public var entries: [PagemapEntry]?
    public let file: FileDescriptor
    /// Whether the file takes pages from our buffers only (`append`), for they are compressed, encrypted, or go past the page cache.
    public var isCopied: Bool { regions != nil || goesDirectly }
    private let goesDirectly: Bool
    private let workers: Workers
    /// For whoever has pages before it and makes their checksums.
    public let sums = PageSums()
    /// Whether anybody will ask for checksums.
    public let isSummed: Bool
    private let regions: RegionStore?
    private let seal: ImageSeal?
    /// Of the pagemap, if that is sealed.
    private let head: SealedImage.Head?
    /// The region that is being filled.
    private var region: PageBuffer?
    private var nextRegion = 0
    private let copies = SpareBuffers()
    /// Bytes of pages that `append` was given.
    private var appended: UInt64 = 0
    /// Up to where somebody makes the checksums, and from where they are made.
    private var claimed: UInt64 = 0, madeFrom = UInt64.max
    private var changes: [Range<UInt64>] = []
    /// What one job sums: little of what may be little, for then somebody waits for the last of them.
    private var piece: UInt64 { claimed < 16 << 20 ? 1 << 20 : 4 << 20 }
    /// Bytes for which a worker is not worth waking.
    private static let little: UInt64 = 1 << 18

    /// - Parameters:
    ///   - seal: what its images are encrypted with.
    ///   - directly: whether pages go past the page cache (open(2), O_DIRECT); those that are compressed or encrypted do not.
    ///   - summed: whether pages get checksums.
    public init(
        _ number: UInt32, pagemap: String, in directory: FileDescriptor, _ workers: Workers, _ compression: Compression? = nil, _ seal: ImageSeal? = nil, directly: Bool = false,
        summed: Bool = true
    ) throws(ImageError) {
        let isPlain = compression == nil && seal == nil
        (self.number, self.pagemap, self.workers, goesDirectly, isSummed) = (number, pagemap, workers, directly && isPlain, summed)
        let name = (isPlain ? ImageKind.pages : seal == nil ? .compressedPages : .sealedPages).name(UInt64(number))
        (self.name, self.seal, head) = (name, seal, seal?.head())
        let direct: Int32 = goesDirectly ? 0o40000 : 0  // O_DIRECT, x86
        do throws(SyscallError) { file = try FileDescriptor.open(name, O_RDWR | O_CREAT | O_TRUNC | direct, mode: 0o644, at: directory.number) } catch {
            if goesDirectly, error.errno.rawValue == EINVAL {
                throw ImageError(name, "its file system knows no direct I/O", remedy: "leave --direct-io out, or give another directory with -D", errno: error.errno)
            }
            throw ImageError(name, "it can't be created", error)
        }
        regions = isPlain ? nil : RegionStore(compression, seal.flatMap { [head] seal in head.map { RegionSeal(seal.key, $0, pages: name) } }, file, name, sums)
    }

    // MARK: written by others

    /// Everything before `end` (bytes, whole pages) is written.
    public func grew(to end: UInt64) {
        while isSummed, end >= claimed + piece { claim(claimed..<(claimed + piece)) }
    }

    /// These bytes were written once more.
    public func changed(_ range: Range<UInt64>) { changes.append((range.lowerBound & ~4095)..<((range.upperBound + 4095) & ~4095)) }

    /// Of all pages from `offset` on somebody has put the checksums into `sums`.
    public func isSummed(from offset: UInt64) { madeFrom = offset }

    /// All is written.
    public func isWhole(_ size: UInt64) throws(ImageError) {
        guard isSummed else { return }
        let end = min(size, max(madeFrom, claimed))
        grew(to: end)
        let rest = claimed..<end
        if rest.count > Self.little { claim(rest) } else if !rest.isEmpty { try sums.make(rest, file, name) }
    }

    private func claim(_ range: Range<UInt64>) {
        claimed = range.upperBound
        workers.run { [sums, file, name] in try sums.make(range, file, name) }
    }

    // MARK: written by us

    /// The next pages.
    public func append(_ content: PageBuffer) throws(ImageError) {
        appended += UInt64(content.count)
        guard let regions else {
            let place = appended - UInt64(content.count)
            if goesDirectly { return writeBehind(content, at: place) }
            do throws(SyscallError) { try content.write(to: file, at: place) } catch { throw ImageError(name, "it can't be written", error) }
            return grew(to: appended)
        }
        var done = 0
        while done < content.count {
            let filling = region ?? regions.room()
            region = filling
            done += filling.append(content, done..<content.count)
            if filling.isFull { store() }
        }
    }

    /// While the caller reads the next: a disk that is written past the page cache lets nobody wait for it but its writer.
    private func writeBehind(_ content: PageBuffer, at place: UInt64) {
        let copy = copies.take(content.count + content.room)
        _ = copy.append(content, 0..<content.count)
        workers.run(limit: 2) { [sums, file, name, copies] in
            sums.put(copy.checksums, at: place)
            do throws(SyscallError) { try copy.write(to: file, at: place) } catch { throw ImageError(name, "it can't be written", error) }
            copies.give(back: copy)
        }
    }

    /// All has been appended.
    public func isWhole() throws(ImageError) {
        if !isCopied { return try isWhole(appended) }
        if region != nil { store() }
    }

    private func store() {
        guard let regions, let content = region else { return }
        (region, nextRegion) = (nil, nextRegion + 1)
        workers.run(limit: 8) { [number = nextRegion - 1] in try regions.store(content, as: number) }
    }

    // MARK: the end

    /// Writes pagemap and checksums, when the workers have finished.
    public func writeImages(in directory: FileDescriptor) throws(ImageError) {
        if let entries {
            var head = PagemapHead()
            head.pagesID = number
            regions?.describe(in: &head)
            let writer = try ImageWriter(directory: directory, name: pagemap, seal, self.head)
            try writer.append(head)
            for entry in entries { try writer.append(entry) }
            try writer.finish(sync: false)
        }
        guard isSummed else { return }
        for range in changes { try sums.make(range, file, name) }
        try PageChecksums(sums.all).write(for: number, pagemap: pagemap, in: directory, seal)
    }
}
@available(*, unavailable) extension NewPagesFile: Sendable {}

/// Checksums of pages, which come in any order.
public final class PageSums: Sendable {
    private let values = Mutex<[UInt32]>([])
    fileprivate var all: [UInt32] { values.withLock { $0 } }

    /// - Parameter offset: of the first page in the file, or in what it has when it is not compressed.
    public func put(_ sums: [UInt32], at offset: UInt64) {
        let first = Int(offset / 4096)
        values.withLock { values in
            if values.count < first + sums.count { values += [UInt32](repeating: 0, count: first + sums.count - values.count) }
            values.replaceSubrange(first..<(first + sums.count), with: sums)
        }
    }

    /// From what a file holds.
    fileprivate func make(_ range: Range<UInt64>, _ file: FileDescriptor, _ name: String) throws(ImageError) {
        let sums: [UInt32]
        do throws(SyscallError) { sums = try Checksum.ofPages(of: file, range) } catch { throw ImageError(name, "it can't be read again", error) }
        guard UInt64(sums.count) * 4096 == UInt64(range.count) else { throw ImageError(name, "it is shorter than what was written to it") }
        put(sums, at: range.lowerBound)
    }
}

/// Buffers that are used again and again: memory that is new costs as much as what is written to it.
private final class SpareBuffers: Sendable {
    private let free = Mutex([PageBuffer]())
    /// An empty one; all are of one capacity.
    func take(_ capacity: Int) -> PageBuffer { free.withLock { $0.popLast() } ?? PageBuffer(capacity) }
    func give(back buffer: PageBuffer) {
        buffer.clear(0)
        free.withLock { $0.append(buffer) }
    }
}

/// Compresses regions, encrypts them, and puts them into the file as they come.
private final class RegionStore: Sendable {
    static let pages = 64
    private let method: Compression?, seal: RegionSeal?, file: FileDescriptor, name: String, sums: PageSums
    private let rooms = SpareBuffers(), state = Mutex(State())
    private struct State: ~Copyable {
        var places: [Int: Range<UInt64>] = [:]
        var end: UInt64 = 0
        var tools: [Tool] = []
    }
    /// For one job at a time.
    private struct Tool: @unchecked Sendable {
        let compressor: Compressor?, packed: PageBuffer, sealed: PageBuffer
    }

    init(_ method: Compression?, _ seal: RegionSeal?, _ file: FileDescriptor, _ name: String, _ sums: PageSums) {
        (self.method, self.seal, self.file, self.name, self.sums) = (method, seal, file, name, sums)
    }

    /// For the next region.
    func room() -> PageBuffer { rooms.take(Self.pages * 4096) }

    func store(_ content: PageBuffer, as number: Int) throws(ImageError) {
        sums.put(content.checksums, at: UInt64(number * Self.pages * 4096))
        // A little more than a region: what does not become shorter may become longer.
        let tool = state.withLock { $0.tools.popLast() } ?? makeTool()
        var result = tool.compressor?.compress(content, into: tool.packed) == true ? tool.packed : content
        if let seal {
            seal.seal(result, into: tool.sealed, number)
            result = tool.sealed
        }
        let length = UInt64(result.count)
        let offset = state.withLock { state in
            defer { state.end += length }
            state.places[number] = state.end..<(state.end + length)
            return state.end
        }
        do throws(SyscallError) { try result.write(to: file, at: offset) } catch { throw ImageError(name, "it can't be written", error) }
        rooms.give(back: content)
        state.withLock { $0.tools.append(tool) }
    }

    private func makeTool() -> Tool {
        let room = Self.pages * 4096 + 16384
        return Tool(compressor: method.map(Compressor.init), packed: PageBuffer(method == nil ? 0 : room), sealed: PageBuffer(seal == nil ? 0 : room))
    }

    func describe(in head: inout PagemapHead) {
        (head.compression, head.regionPages) = (method?.number ?? 0, UInt32(Self.pages))
        let places = state.withLock { $0.places }
        for number in 0..<places.count {
            guard let place = places[number] else { preconditionFailure("a region is missing") }
            head.regionOffset.append(place.lowerBound)
            head.regionBytes.append(UInt32(place.count))
        }
    }
}
