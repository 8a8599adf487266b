import ImageMessages
import Images
import Kinds
import Linux
import Pages

/// Memory of a process that is new, has no page yet, and takes many. It is watched (userfaultfd(2)), so that pages can be put there as they come:
/// the kernel does not make pages of zeros first, and the process need not write them itself.
struct FillableMemory {
    let fault: Userfault
    private let ranges: [Range<UInt64>]
    /// Bytes for a mapping for which it pays.
    private static let worth: UInt64 = 8 << 20

    /// Nil where there is none, or nobody may watch it.
    /// - Parameters:
    ///   - mappings: that the process has made just now, ascending.
    ///   - runs: that are wanted, each in one mapping.
    init?(_ mappings: [VmaEntry], for runs: [PageImage.Run], in process: RestoringProcess) {
        let large = runs.filter { $0.range.count >= 1 << 16 }
        if large.bytes < Self.worth || Self.hasHugePagesEverywhere { return nil }
        let candidates = mappings.filter { $0.canBeLazy && $0.madv & 1 << 14 == 0 && $0.length >= Self.worth }.map { $0.start..<$0.end }
        var bytes = [UInt64](repeating: 0, count: candidates.count)
        for run in large { if let index = candidates.index(around: run.range) { bytes[index] += UInt64(run.range.count) } }
        ranges = candidates.indices.filter { bytes[$0] >= Self.worth }.map { candidates[$0] }
        guard !ranges.isEmpty else { return nil }
        do {
            fault = try Userfault.make(in: process.grafted, used: [], userModeOnly: false, features: [])
            for range in ranges { try fault.register(range, .missing) }
        } catch { return nil }
    }

    func contains(_ run: PageImage.Run) -> Bool { ranges.index(around: run.range) != nil }

    /// Whether the kernel makes huge pages unasked (Documentation/admin-guide/mm/transhuge.rst): those are made sooner than small ones are filled.
    private static let hasHugePagesEverywhere = (try? Files.text("/sys/kernel/mm/transparent_hugepage/enabled"))?.contains("[always]") ?? false
}

extension PageImage.Run {
    /// Where it ends in its file.
    var end: UInt64 { offset + UInt64(range.count) }
}

extension [PageImage.Run] {
    var bytes: UInt64 { reduce(0) { $0 + UInt64($1.range.count) } }
}

private extension [Range<UInt64>] {
    /// Which of these ascending ranges has all of `range`.
    func index(around range: Range<UInt64>) -> Int? {
        var low = 0, high = count
        while low < high {
            let middle = (low + high) / 2
            if self[middle].upperBound <= range.lowerBound { low = middle + 1 } else { high = middle }
        }
        return low < count && self[low].lowerBound <= range.lowerBound && range.upperBound <= self[low].upperBound ? low : nil
    }
}
