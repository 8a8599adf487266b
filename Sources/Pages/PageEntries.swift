package import ImageMessages

/// Entries of a pagemap, adjacent ones of the same kind joined.
package struct PageEntries {
    package private(set) var entries: [PagemapEntry] = []
    package init() {}
    package mutating func add(_ range: Range<UInt64>, _ flags: UInt32) {
        let pages = UInt64(range.count) / 4096
        if let last = entries.last, last.flags == flags, last.vaddr + last.nrPages * 4096 == range.lowerBound {
            entries[entries.count - 1].nrPages += pages
            return
        }
        var entry = PagemapEntry()
        (entry.vaddr, entry.compatNrPages, entry.flags, entry.nrPages) = (range.lowerBound, 0, flags, pages)
        entries.append(entry)
    }
}
