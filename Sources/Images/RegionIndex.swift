import Cryptography
import ImageMessages
public import Linux

/// Where the regions of a compressed or encrypted pages file are. A region is the pages that were compressed, and sealed, together, each but
/// the last as many; offsets of pages count as if nothing were. A region that is as long as its pages is stored as they are. One that is sealed
/// is longer by the tag.
public struct RegionIndex: Equatable, Sendable {
    /// Nil: none is compressed.
    public let method: Compression?
    let seal: RegionSeal?
    /// Bytes by which a region is longer than what it holds.
    var overhead: Int { seal == nil ? 0 : SymmetricKey.overhead }
    /// Bytes of pages in a region.
    public let regionSize: UInt64
    /// Bytes of all pages.
    public let bytes: UInt64
    /// In the file, checked; its length is not.
    public let places: [Range<UInt64>]
    /// The least length the file can have.
    public var fileEnd: UInt64 { places.reduce(0) { max($0, $1.upperBound) } }

    /// Nil for a pagemap whose pages are neither.
    init?(_ head: PagemapHead, _ name: String, bytes: UInt64, _ seal: RegionSeal?) throws(ImageError) {
        guard head.hasCompression else { return nil }
        func refused(_ field: String, _ problem: String) -> ImageError { ImageError(name, entry: 0, field: field, problem) }
        let method = Compression(number: head.compression), overhead = UInt64(seal == nil ? 0 : SymmetricKey.overhead)
        guard method != nil || seal != nil && head.compression == 0 else { throw refused("compression", "\(head.compression) is none that we know") }
        guard (1...4096).contains(head.regionPages) else { throw refused("region_pages", "\(head.regionPages) is not from 1 to 4096") }
        let size = UInt64(head.regionPages) * 4096
        let count = bytes / size + (bytes % size == 0 ? 0 : 1)
        guard UInt64(head.regionBytes.count) == count, UInt64(head.regionOffset.count) == count else {
            throw refused("region_bytes", "\(head.regionBytes.count) regions, and \(head.regionOffset.count) places of them, where the pages make \(count)")
        }
        var places = [Range<UInt64>]()
        places.reserveCapacity(Int(count))
        for (index, (offset, length)) in zip(head.regionOffset, head.regionBytes).enumerated() {
            let content = min(size, bytes - UInt64(index) * size)
            guard UInt64(length) > overhead, UInt64(length) <= content + overhead, offset <= UInt64(Int64.max) - content - overhead else { throw refused("region_bytes", "region \(index) of \(length) bytes at \(offset) can't be") }
            places.append(offset..<(offset + UInt64(length)))
        }
        (self.method, self.seal, regionSize, self.bytes, self.places) = (method, seal, size, bytes, places)
    }

    /// Bytes of pages that a region has.
    func content(_ region: Int) -> Range<UInt64> { UInt64(region) * regionSize..<min(bytes, UInt64(region + 1) * regionSize) }

    /// Where the regions lie of which `ranges` has every page.
    public func places(coveredBy ranges: [Range<UInt64>]) -> [Range<UInt64>] {
        ranges.merged().flatMap { range in
            let first = (range.lowerBound + regionSize - 1) / regionSize
            let end = range.upperBound >= bytes ? UInt64(places.count) : range.upperBound / regionSize
            return first < end ? Array(places[Int(first)..<Int(end)]) : []
        }
    }
}

extension [Range<UInt64>] {
    /// Ascending, joined where they touch or overlap.
    func merged() -> [Range<UInt64>] {
        var found = [Range<UInt64>]()
        for range in sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = found.last, last.upperBound >= range.lowerBound { found[found.count - 1] = last.lowerBound..<Swift.max(last.upperBound, range.upperBound) } else { found.append(range) }
        }
        return found
    }
}
