package import ImageMessages

extension DumpStatsEntry {
    /// Nothing counted yet. Every field is set, because readers insist on the required ones (format README 16.4).
    package static var zero: DumpStatsEntry {
        var entry = DumpStatsEntry()
        (entry.freezingTime, entry.frozenTime, entry.memdumpTime, entry.memwriteTime) = (0, 0, 0, 0)
        (entry.pagesScanned, entry.pagesSkippedParent, entry.pagesWritten, entry.pagesLazy) = (0, 0, 0, 0)
        (entry.irmapResolve, entry.pagePipes, entry.pagePipeBufs) = (0, 0, 0)
        (entry.shpagesScanned, entry.shpagesSkippedParent, entry.shpagesWritten) = (0, 0, 0)
        return entry
    }
}
