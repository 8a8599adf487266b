package import ImageMessages
import Linux

/// The pages of a process that go into its image, in address order.
package struct PageRuns: Equatable, Sendable {
    /// pagemap_entry.flags, format README 9.2.
    package static let present: UInt32 = 4, lazy: UInt32 = 2, parent: UInt32 = 1
    package struct Run: Equatable, Sendable {
        package var range: Range<UInt64>, flags: UInt32
        /// Whether the task may read these pages itself.
        package var readable: Bool
        /// Whether its content goes into this image.
        package var hasContent: Bool { flags & PageRuns.present != 0 }
        package init(range: Range<UInt64>, flags: UInt32, readable: Bool) { (self.range, self.flags, self.readable) = (range, flags, readable) }
    }
    package private(set) var runs: [Run] = []
    /// Pages whose content goes into this image.
    package var pages: UInt64 { count(of: Self.present) }
    package func count(of flag: UInt32) -> UInt64 { runs.reduce(0) { $0 + ($1.flags & flag != 0 ? UInt64($1.range.count) / 4096 : 0) } }

    /// Cuts the pages that the scan found (`own`, ascending) to the private mappings; vDSO and AIO rings are taken whole.
    /// - Parameters:
    ///   - unchanged: of these pages, ascending, those that the parent images have as they are.
    ///   - postponed: whether pages that can come later are left out.
    package init(own: [Range<UInt64>], in mappings: [VmaEntry], unchanged: [Range<UInt64>] = [], postponed: Bool = false) {
        var at = 0, same = 0
        for mapping in mappings where mapping.isPrivate {
            let bits = mapping.statusBits
            if !bits.isDisjoint(with: [.vvar, .vsyscall]) || mapping.flags & 8 != 0 { continue }
            let readable = mapping.prot & 1 != 0
            if !bits.isDisjoint(with: [.vdso, .aioRing]) {
                add(mapping.start..<mapping.end, Self.present, readable)
                continue
            }
            let lazy = bits.contains(.anonymousPrivate) && mapping.flags & 0x2000 == 0
            while at < own.count, own[at].upperBound <= mapping.start { at += 1 }
            var index = at
            while index < own.count, own[index].lowerBound < mapping.end {
                let part = max(own[index].lowerBound, mapping.start)..<min(own[index].upperBound, mapping.end)
                let flags = !lazy ? Self.present : postponed ? Self.lazy : Self.present | Self.lazy
                var from = part.lowerBound
                while same < unchanged.count, unchanged[same].upperBound <= from { same += 1 }
                var next = same
                while next < unchanged.count, unchanged[next].lowerBound < part.upperBound {
                    let kept = unchanged[next].clamped(to: part)
                    if kept.lowerBound > from { add(from..<kept.lowerBound, flags, readable) }
                    add(kept, Self.parent, readable)
                    from = kept.upperBound
                    next += 1
                }
                if from < part.upperBound { add(from..<part.upperBound, flags, readable) }
                index += 1
            }
        }
    }

    private mutating func add(_ range: Range<UInt64>, _ flags: UInt32, _ readable: Bool) {
        if let last = runs.last, last.range.upperBound == range.lowerBound, last.flags == flags, last.readable == readable {
            runs[runs.count - 1].range = last.range.lowerBound..<range.upperBound
        } else { runs.append(Run(range: range, flags: flags, readable: readable)) }
    }

    /// Pages and their place in the image, bytes.
    package struct Piece: Equatable, Sendable { package var range: Range<UInt64>, offset: UInt64, readable: Bool }

    package var pieces: [Piece] {
        var offset: UInt64 = 0
        return runs.filter(\.hasContent).map { run in
            defer { offset += UInt64(run.range.count) }
            return Piece(range: run.range, offset: offset, readable: run.readable)
        }
    }

    package func entries() -> [PagemapEntry] {
        runs.map { run in
            var entry = PagemapEntry()
            (entry.vaddr, entry.compatNrPages, entry.flags, entry.nrPages) = (run.range.lowerBound, 0, run.flags, UInt64(run.range.count) / 4096)
            return entry
        }
    }
}

extension [PageRuns.Piece] {
    /// Those in and outside of `ranges` (ascending), cut at their ends.
    package func cut(at ranges: [Range<UInt64>]) -> (inside: Self, outside: Self) {
        var inside = Self(), outside = Self()
        for piece in self {
            func part(_ range: Range<UInt64>) -> Element { Element(range: range, offset: piece.offset + range.lowerBound - piece.range.lowerBound, readable: piece.readable) }
            var at = piece.range.lowerBound
            for range in ranges where range.overlaps(piece.range) {
                let common = range.clamped(to: piece.range)
                if common.lowerBound > at { outside.append(part(at..<common.lowerBound)) }
                inside.append(part(common))
                at = common.upperBound
            }
            if at < piece.range.upperBound { outside.append(part(at..<piece.range.upperBound)) }
        }
        return (inside, outside)
    }
}
