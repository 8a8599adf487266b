import Cryptography
import Glibc
public import Linux

/// Reads pages of a pages file piece by piece, also of one that is compressed or encrypted. For one thread.
public final class PagesReader {
    private let file: PageImage.File
    private lazy var content = PageBuffer(Int(file.regions?.regionSize ?? 64 * 4096))
    private lazy var packed = PageBuffer(Int(file.regions?.regionSize ?? 0))
    private lazy var sealed = PageBuffer(Int(file.regions?.regionSize ?? 0) + SymmetricKey.overhead)
    private lazy var compressor = file.regions?.method.map(Compressor.init)
    /// The region that `content` has.
    private var region: Int?

    private let takesFreed: Bool

    /// - Parameter takesFreed: whether sealed pages that were freed read as zeros; the caller then knows by their checksums.
    init(_ file: PageImage.File, takesFreed: Bool) { (self.file, self.takesFreed) = (file, takesFreed) }
    public convenience init(_ file: PageImage.File) { self.init(file, takesFreed: false) }

    /// Hands over the pages of `range` (offsets) in pieces: a part of a buffer, and the offset of its first byte.
    public func eachPiece(of range: Range<UInt64>, _ body: (PageBuffer, _ part: Range<Int>, _ offset: UInt64) throws -> Void) throws {
        var at = range.lowerBound
        while at < range.upperBound {
            let part: Range<Int>
            if let regions = file.regions {
                guard at < regions.bytes else { throw ended(at) }
                let number = Int(at / regions.regionSize), has = regions.content(number)
                if region != number { try load(number, regions) }
                part = Int(at - has.lowerBound)..<Int(min(range.upperBound, has.upperBound) - has.lowerBound)
            } else {
                do throws(SyscallError) { try content.fill(from: file.descriptor, at: at, Int(clamping: range.upperBound - at)) } catch { throw ImageError(file.name, "it can't be read", error) }
                part = 0..<content.count
                if part.isEmpty { throw ended(at) }
            }
            try body(content, part, at)
            at += UInt64(part.count)
        }
    }

    /// Fewer at the file's end.
    public func bytes(_ range: Range<UInt64>) throws -> [UInt8] {
        if file.regions == nil {
            do throws(SyscallError) { return try file.descriptor.read(range.count, at: Int(range.lowerBound)) } catch { throw ImageError(file.name, "it can't be read", error) }
        }
        var found = [UInt8]()
        found.reserveCapacity(range.count)
        try eachPiece(of: range) { buffer, part, _ in found += buffer.bytes(part) }
        return found
    }

    private func refused(_ place: Range<UInt64>, _ cause: String) -> ImageError { ImageError(file.name, offset: place.lowerBound, cause, remedy: PageChecksums.remedy) }
    private func ended(_ offset: UInt64) -> ImageError { ImageError(file.name, offset: offset, "it is cut short") }

    private func load(_ number: Int, _ regions: RegionIndex) throws(ImageError) {
        let place = regions.places[number], length = regions.content(number).count
        region = nil
        let isStored = place.count - regions.overhead == length, target = isStored ? content : packed, source = regions.seal == nil ? target : sealed
        do throws(SyscallError) { try source.fill(from: file.descriptor, at: place.lowerBound, place.count) } catch { throw ImageError(file.name, "it can't be read", error) }
        guard source.count == place.count else { throw ended(place.lowerBound) }
        if let seal = regions.seal, !seal.open(sealed, into: target, number) {
            // Nobody but us can make pages of zeros here.
            guard sealed.isZero else { throw refused(place, "it is not as it was dumped: pages can't be decrypted") }
            guard takesFreed else { throw refused(place, "its pages are gone: they were freed (dedup, --auto-dedup), or lost") }
            content.clear(length)
            return region = number
        }
        if !isStored, compressor?.decompress(packed, into: content, length) != true {
            // A hole: the region was freed, as pages are that are not compressed. They read as zeros, then.
            guard packed.isZero else {
                throw refused(place, "it is not as it was dumped: pages can't be decompressed")
            }
            content.clear(length)
        }
        region = number
    }
}
@available(*, unavailable) extension PagesReader: Sendable {}
