import ImageMessages

/// Bits of vma_entry.status that matter here (format 8.4).
private enum MappingStatus {
    static let regular: UInt32 = 0x1
    static let vsyscall: UInt32 = 0x4
    static let filePrivate: UInt32 = 0x40
    static let fileShared: UInt32 = 0x80
    static let anonymousPrivate: UInt32 = 0x200
    static let socket: UInt32 = 0x800
    static let aioRing: UInt32 = 0x2000
    static let shadowStack: UInt32 = 0x8000
    static let guardRange: UInt32 = 0x10000
    static let ioUring: UInt32 = 0x1000_0000
}

// Mappings and their pages (format 8 and 9).
extension ImageSet {
    func checkMemory(of task: TaskImages, _ target: ImageTarget, _ findings: inout Findings) {
        guard let mm = task.mm else { return }
        let place = Place(file: ImageFile<MmEntry>.mm.name(task.pid), entry: 0)
        place.expect(files[mm.exeFileID]?.hasReg == true, "exe_file_id", "files.img has no path with id \(mm.exeFileID)", &findings)
        place.expect(!mm.vmas.isEmpty, "vmas", "it is empty", &findings)
        place.expect(mm.mmSavedAuxv.count <= 128, "mm_saved_auxv", "\(mm.mmSavedAuxv.count) words are too many", &findings)
        place.expect((0...2).contains(mm.dumpable), "dumpable", "\(mm.dumpable) is none of 0, 1, 2", &findings)
        let holders = checkMappings(mm, place, target, &findings)
        let starts = Set(mm.vmas.map(\.start)), rings = Set(mm.vmas.lazy.filter { $0.status & MappingStatus.aioRing != 0 }.map(\.start))
        for (index, ring) in mm.aios.enumerated() {
            place.expect(rings.contains(ring.id), "aios[\(index)].id", "there is no AIO ring at \(hex(ring.id))", &findings)
        }
        for (index, name) in mm.vmaNames.enumerated() {
            place.text(name.name, upTo: 79, "vma_names[\(index)].name", &findings)  // ANON_VMA_NAME_MAX_LEN (kernel/sys.c)
            place.expect(starts.contains(name.start), "vma_names[\(index)].start", "no mapping begins at \(hex(name.start))", &findings)
        }
        if let pagemap = task.pagemap { checkPages(pagemap, in: holders, &findings) }
        findings.note { () throws(ImageError) in _ = try pages.extents(of: .pagemap, task.pid) }
    }

    /// Returns the ranges whose content may be in the pagemap, ascending, adjacent ones joined.
    private func checkMappings(_ mm: MmEntry, _ place: Place, _ target: ImageTarget, _ findings: inout Findings) -> [Range<UInt64>] {
        var holders: [Range<UInt64>] = []
        var end: UInt64 = 0
        let pageSize = pages.pageSize
        for (index, mapping) in mm.vmas.enumerated() {
            let place = place.inside("vmas[\(index)]")
            guard mapping.start < mapping.end, mapping.start % pageSize == 0, mapping.end % pageSize == 0 else {
                place.expect(false, "end", "\(hex(mapping.start))-\(hex(mapping.end)) is no range of pages", &findings)
                continue
            }
            place.expect(mapping.prot & ~7 == 0, "prot", "\(hex(mapping.prot)) has unknown bits", &findings)
            if mapping.status == MappingStatus.guardRange {
                place.expect(mapping.end <= target.addressSpaceEnd, "end", "\(hex(mapping.end)) is above user space", &findings)
                continue  // laid over mappings, after all of them
            }
            place.expect(mapping.start >= end, "start", "\(hex(mapping.start)) is below the end of the mapping before, \(hex(end))", &findings)
            end = max(end, mapping.end)
            if mapping.status & MappingStatus.vsyscall != 0 { continue }
            place.expect(mapping.end <= target.addressSpaceEnd, "end", "\(hex(mapping.end)) is above user space", &findings)
            place.expect([1, 2, 8].contains(mapping.flags & 0xf), "flags", "\(hex(mapping.flags)) is not one of shared, private, droppable", &findings)
            if mapping.status & (MappingStatus.filePrivate | MappingStatus.fileShared | MappingStatus.socket | MappingStatus.ioUring) != 0 {
                place.expect(mapping.pgoff % pageSize == 0, "pgoff", "\(hex(mapping.pgoff)) is not on a page", &findings)
                let file = UInt32(exactly: mapping.shmid).flatMap { files[$0] }
                let wanted: [FdTypes] = mapping.status & MappingStatus.socket != 0 ? [.packetsk] : mapping.status & MappingStatus.ioUring != 0 ? [.stasisIoUring] : [.reg, .memfd]
                place.expect(file.map { wanted.contains($0.type) } ?? false, "shmid", "files.img has no file with id \(mapping.shmid) that can be mapped", &findings)
            }
            let regular = mapping.status & MappingStatus.regular != 0
            let holdsPages = mapping.status & (MappingStatus.aioRing | MappingStatus.shadowStack) != 0
                || regular && mapping.status & (MappingStatus.anonymousPrivate | MappingStatus.filePrivate) != 0
            guard holdsPages, mapping.start >= holders.last?.upperBound ?? 0 else { continue }
            let start = holders.last?.upperBound == mapping.start ? holders.removeLast().lowerBound : mapping.start
            holders.append(start..<mapping.end)
        }
        return holders
    }

    private func checkPages(_ pagemap: Pagemap, in holders: [Range<UInt64>], _ findings: inout Findings) {
        var at = 0
        for run in pagemap.runs {
            let end = run.address + run.pages * pagemap.pageSize  // no overflow: checked when the pagemap was read
            while at < holders.count, holders[at].upperBound <= run.address { at += 1 }
            if at < holders.count, holders[at].lowerBound <= run.address, end <= holders[at].upperBound { continue }
            findings.add(ImageError(pagemap.file, field: "vaddr", "\(hex(run.address))-\(hex(end)) is not inside a private mapping"))
        }
    }
}

extension ImageSet {
    /// What a task has at an address, for people: "mapping 7f0000000000-7f0000021000 (/lib/x.so)".
    public func mapping(at address: UInt64, of pid: UInt32) -> String {
        guard let mm = self[pid]?.mm, let mapping = mm.vmas.first(where: { $0.start <= address && address < $0.end }) else { return "" }
        let name: String
        if mapping.start <= mm.mmStartStack, mm.mmStartStack < mapping.end { name = "stack" }
        else if mapping.start < mm.mmBrk, mapping.end > mm.mmStartBrk { name = "heap" }
        else if let given = mm.vmaNames.first(where: { $0.start == mapping.start }) { name = given.name }
        else if mapping.status & MappingStatus.filePrivate != 0, let file = UInt32(exactly: mapping.shmid).flatMap({ files[$0] }), file.hasReg { name = file.reg.name }
        else { name = "anonymous" }
        return "mapping \(String(mapping.start, radix: 16))-\(String(mapping.end, radix: 16)) (\(name))"
    }
}
