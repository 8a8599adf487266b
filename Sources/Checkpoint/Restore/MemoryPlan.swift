import ImageMessages
import Kinds

/// What has to be done to the memory of one process, computed from its images and its parent's. Pure data.
struct MemoryPlan: Equatable {
    /// Mappings that the process has from its parent by fork, pages and all.
    var inherited: [VmaEntry] = []
    /// Mappings to make, in address order.
    var fresh: [VmaEntry] = []
    /// Holes to clear: everything else, but for what the restore itself needs.
    var unmap: [Range<UInt64>] = []
    /// Where vvar and vDSO belong.
    var vvar: VmaEntry?, vdso: VmaEntry?
    var guards: [VmaEntry] = []

    /// - Parameters:
    ///   - reserved: what the restore itself occupies.
    ///   - parent: the parent's mappings, when the process is made as its copy.
    init(_ mm: MmEntry, parent: MmEntry?, reserved: Range<UInt64>) {
        // Mappings of the parent's executable go when the child has another one.
        let stale = parent.flatMap { $0.exeFileID == mm.exeFileID ? nil : UInt64($0.exeFileID) }
        let parents = Dictionary((parent?.vmas ?? []).filter { $0.canBeInherited && !($0.needsFile && $0.shmid == stale) }.map { ($0.start, $0) }, uniquingKeysWith: { a, _ in a })
        for mapping in mm.vmas {
            let bits = mapping.statusBits
            if bits == .guardRange { guards.append(mapping) }
            else if bits.contains(.vsyscall) { continue }
            else if bits.contains(.vvar) { vvar = mapping }
            else if bits.contains(.vdso) { vdso = mapping }
            else if let other = parents[mapping.start], mapping.canBeInherited, other.sameMapping(as: mapping) { inherited.append(mapping) }
            else { fresh.append(mapping) }
        }
        let keep = (inherited.map { $0.start..<$0.end } + [reserved]).sorted { $0.lowerBound < $1.lowerBound }
        var at: UInt64 = 0
        for range in keep {
            if range.lowerBound > at { unmap.append(at..<range.lowerBound) }
            at = max(at, range.upperBound)
        }
        if at < AddressSpace.end { unmap.append(at..<AddressSpace.end) }
    }

    /// A hole of `size` bytes among what will be there, the nearest to `address`: within reach of a short jump where there is one.
    func hole(of size: UInt64, near address: UInt64, _ mm: MmEntry, reserved: Range<UInt64>) -> UInt64? {
        let used = (mm.vmas.filter { $0.statusBits != .guardRange && !$0.statusBits.contains(.vvar) }.map { entry in
            // A stack grows down to where its limit lets it.
            (entry.flags & 0x100 != 0 ? entry.start - min(entry.start, 1 << 30) : entry.start)..<entry.end
        } + [reserved]).sorted { $0.lowerBound < $1.lowerBound }
        var best: UInt64?, at: UInt64 = 0x10000
        func distance(_ place: UInt64) -> UInt64 { place > address ? place - address : address - place }
        for range in used + [AddressSpace.end..<AddressSpace.end] where range.upperBound <= AddressSpace.end {
            if range.lowerBound > at, range.lowerBound - at >= size {
                let place = min(max(address, at), range.lowerBound - size)
                if best.map({ distance(place) < distance($0) }) ?? true { best = place }
            }
            at = max(at, range.upperBound)
        }
        return best
    }

    /// A hole of `size` bytes that no process of the tree uses, page aligned, away from where the kernel puts things.
    static func commonHole(_ images: [MmEntry], size: UInt64) throws -> UInt64 {
        let used = images.flatMap { image in
            image.vmas.lazy.filter { $0.end <= AddressSpace.end && $0.statusBits != .guardRange }.map { $0.start..<$0.end }
        }.sorted { $0.lowerBound < $1.lowerBound }
        // Below the mmap area and above the usual programs first; 0x10000 is the lowest address that may be mapped at all.
        let margin: UInt64 = 1 << 20
        var holes = [Range<UInt64>]()
        var at: UInt64 = 0x10000
        for range in used {
            if range.lowerBound > at { holes.append(at..<range.lowerBound) }
            at = max(at, range.upperBound)
        }
        if at < AddressSpace.end - (64 << 20) { holes.append(at..<(AddressSpace.end - (64 << 20))) }
        guard let best = holes.max(by: { $0.count < $1.count }), UInt64(best.count) > size + 2 * margin else {
            throw CheckpointError("restore", .object("the tree"), "its processes leave no common hole of \(size) bytes in their address spaces")
        }
        return (best.lowerBound + UInt64(best.count) / 2) & ~0xfff
    }
}

extension VmaEntry {
    /// Private memory whose pages a fork shares: not for mappings that fork leaves out or wipes.
    var canBeInherited: Bool {
        let bits = statusBits
        if bits.isDisjoint(with: .ofPages) || !bits.isDisjoint(with: .ofKernel) || bits.contains(.plugin) { return false }
        return !hasMadv || madv & (1 << 10 | 1 << 18) == 0
    }
    func sameMapping(as other: VmaEntry) -> Bool {
        start == other.start && end == other.end && pgoff == other.pgoff && shmid == other.shmid && flags == other.flags
            && status == other.status && flags & 0x2000 == 0
    }
}
