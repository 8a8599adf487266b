import CLinux
import Glibc
import Graft
import ImageMessages
import Images
import Kinds
import Linux
import Pages

/// Makes the memory of one process: runs in its graft, reads pages straight into place.
struct MemoryRestorer {
    let process: RestoringProcess
    /// Whose memory it has from its birth.
    let parent: RestoringProcess?
    let context: RestoreContext
    let places: Places
    /// Told how many bytes of how many are read, on the way through the memory.
    let progress: (_ done: UInt64, _ total: UInt64) -> Void

    /// Addresses that the restore itself uses, the same in every process of the tree.
    struct Places {
        let hole: UInt64
        /// The stub's program, then the workspace, then room for vvar and vDSO while everything else changes.
        static let size = 4096 + UInt64(Stub.workspaceSize) + parkingSize
        static let parkingSize: UInt64 = 1 << 17
        var workspace: UInt64 { hole + 4096 }
        var parking: UInt64 { workspace + UInt64(Stub.workspaceSize) }
        var reserved: Range<UInt64> { hole..<(hole + Self.size) }
    }

    func restore(_ statistics: inout RestoreStatsEntry) throws {
        let images = process.images!
        let plan = MemoryPlan(images.mm, parent: isLazy ? nil : parent?.images?.mm, reserved: places.reserved)
        let calls = CallStream(process.grafted)
        try park(calls)
        for range in plan.unmap { try calls.call("munmap", SYS_munmap, range.lowerBound, UInt64(range.count)) }

        let files = try lendFiles(plan)
        try SysVSharedMemory.attach(plan.fresh.filter { $0.statusBits.contains(.sysV) }, to: calls, context)
        try map(plan.fresh, files, calls)
        try adviseHugePages(plan.fresh, calls)
        for mapping in plan.inherited where mapping.prot & 2 == 0 {
            try calls.call("mprotect", SYS_mprotect, mapping.start, mapping.length, UInt64(mapping.prot | 2))
        }
        try readPages(plan, files, calls, &statistics)
        try calls.flush()
        if isLazy { try watchMissing(plan) }
        for ring in images.mm.aios { try restoreRing(ring, files) }
        for mapping in plan.fresh { try finish(mapping, calls) }
        for mapping in plan.inherited { try finish(mapping, calls) }
        for range in plan.guards { try calls.call("madvise(MADV_GUARD_INSTALL)", SYS_madvise, range.start, range.length, 102) }
        try placeVDSO(plan, calls)
        for name in images.mm.vmaNames { try nameMapping(name, images.mm, calls) }
        try setMemoryFields(images.mm, files, calls)
        for (_, number) in files.sorted(by: { $0.value < $1.value }) { try calls.call("close", SYS_close, UInt64(number)) }
        try calls.flush()
    }

    /// Pages that come later are not shared between parent and child: each process gets its own.
    private var isLazy: Bool { context.settings.postponesPages }

    /// Private memory without a file, of ordinary pages, that has pages which may come later.
    private func watchMissing(_ plan: MemoryPlan) throws {
        let later = process.images!.pages.later(in: plan.fresh)
        process.latePages = later
        var next = 0  // of the pages; both lists ascend
        process.lazyRanges = plan.fresh.filter(\.canBeLazy).map { $0.start..<$0.end }.filter { range in
            while next < later.count, later[next].upperBound <= range.lowerBound { next += 1 }
            return next < later.count && later[next].overlaps(range)
        }
        guard !process.lazyRanges.isEmpty else { return }
        process.fault = try CheckpointError.about("restore", .task(process.pid), remedy: "allow it with sysctl vm.unprivileged_userfaultfd=1, or restore without --lazy-pages") {
            try Userfault.make(in: process.grafted, used: [], userModeOnly: false, features: [.forkEvents, .remapEvents, .removeEvents, .unmapEvents])
        }
    }

    /// What is read now: with --lazy-pages only pages that can't come later.
    private func urgent(_ image: PageImage, _ mappings: [VmaEntry]) throws -> [PageImage.Run] {
        let lazy = mappings.filter(\.canBeLazy).map { $0.start..<$0.end }
        if let stray = MemoryTracker.common(image.elsewhere, mappings.filter { !$0.canBeLazy }.map { $0.start..<$0.end }).first {
            throw CheckpointError("restore", .image("pagemap-\(process.pid).img"), "the page at 0x\(String(stray.lowerBound, radix: 16)) is elsewhere, and can't come later")
        }
        let later = MemoryTracker.common(image.mayBeLazy, lazy)
        var found = [PageImage.Run](), next = 0
        for run in image.runs(within: mappings.map { $0.start..<$0.end }) {
            var at = run.range.lowerBound
            while next < later.count, later[next].upperBound <= at { next += 1 }
            var index = next
            while index < later.count, later[index].lowerBound < run.range.upperBound {
                if later[index].lowerBound > at { found.append(run.clamped(to: at..<later[index].lowerBound)) }
                at = max(at, later[index].upperBound)
                index += 1
            }
            if at < run.range.upperBound { found.append(run.clamped(to: at..<run.range.upperBound)) }
        }
        return found
    }

    // MARK: vvar and vDSO

    /// Moves the kernel's special mappings out of the way (mremap(2) works on each as a whole).
    private func park(_ calls: CallStream) throws {
        var at = places.parking
        for index in process.special.indices {
            let part = process.special[index]
            if at + part.length > places.reserved.upperBound { throw CheckpointError("restore", .task(process.pid), "its vDSO is larger than expected") }
            if part.address != at { try calls.call("mremap", SYS_mremap, part.address, part.length, part.length, 3, at) }
            process.special[index].address = at
            at += part.length
        }
    }

    private func placeVDSO(_ plan: MemoryPlan, _ calls: CallStream) throws {
        let code = process.special.filter(\.isCode), vvar = process.special.filter { !$0.isCode }
        guard let entry = plan.vdso, let foreign = try ForeignVDSO(plan, process.images!, special: process.special.map { ($0.length, $0.isCode) }, reserved: places.reserved) else {
            try move(vvar, to: plan.vvar?.start, calls)
            try move(code, to: plan.vdso?.start, calls)
            return
        }
        context.log.info("task \(process.pid): its vDSO is another kernel's; it leads on to ours at 0x\(String(foreign.place, radix: 16))")
        try move(vvar + code, to: foreign.place, calls)
        try calls.call("mmap", SYS_mmap, entry.start, entry.length, 3, 0x100022, UInt64.max, 0)
        try calls.flush()
        try process.grafted.memory.write(foreign.content, at: entry.start)
        try calls.call("mprotect", SYS_mprotect, entry.start, entry.length, 5)
    }

    /// One behind the other, in the order in which the kernel has them; nil: away.
    private func move(_ parts: [RestoringProcess.Special], to place: UInt64?, _ calls: CallStream) throws {
        var at = place ?? 0
        for part in parts {
            let index = process.special.firstIndex { $0.address == part.address }!
            if place == nil {
                try calls.call("munmap", SYS_munmap, part.address, part.length)
                process.special.remove(at: index)
            } else {
                try calls.call("mremap", SYS_mremap, part.address, part.length, part.length, 3, at)
                process.special[index].address = at
                at += part.length
            }
        }
    }

    // MARK: mappings

    /// What a mapping needs a descriptor for: file id and open mode; pages images are file 0, the executable has mode 1.
    struct FileKey: Hashable { let id: UInt32, mode: UInt32 }
    private static let executableKey = FileKey(id: 0, mode: 1)
    /// The pages images of the chain, by their index.
    private static func pagesKey(_ index: Int) -> FileKey { FileKey(id: 0, mode: 2 + UInt32(index)) }

    /// Opens what the process maps and gives it to the process. Its table is empty but for the socket, so numbers are known.
    private func lendFiles(_ plan: MemoryPlan) throws -> [FileKey: Int32] {
        let images = process.images!
        var wanted: [(FileKey, FileDescriptor)] = []
        var seen = Set<FileKey>()
        for (index, pages) in images.pages.files.enumerated() { wanted.append((Self.pagesKey(index), pages.descriptor)) }
        let executable = try CheckpointError.about("restore", .task(process.pid)) {
            try PathFiles.open(try regularFile(images.mm.exeFileID), flags: UInt32(O_RDONLY), context)
        }
        wanted.append((Self.executableKey, executable))
        for mapping in plan.fresh where mapping.needsFile {
            let key = mapping.fileKey
            guard seen.insert(key).inserted else { continue }
            let subject = CheckpointError.Subject.mapping(mapping.start..<mapping.end, name: "", of: process.pid)
            wanted.append((key, try CheckpointError.about("restore", subject) {
                mapping.statusBits.contains(.memfd)
                    ? try SharedMemory.openForMapping(fileID: key.id, mode: key.mode, context)
                    : try PathFiles.open(try regularFile(key.id), flags: key.mode, context)
            }))
        }
        var numbers: [FileKey: Int32] = [:]
        var at = 0
        while at < wanted.count {
            let part = wanted[at..<min(wanted.count, at + DescriptorPassing.most)]
            let received = try process.receive(part.map(\.1))
            for ((key, _), number) in zip(part, received) { numbers[key] = number }
            at += part.count
        }
        return numbers
    }

    private func regularFile(_ id: UInt32) throws -> RegFileEntry {
        guard let entry = context.files[id], entry.hasReg else { throw CheckpointError("restore", .image("files.img"), "it has no regular file with id \(id)") }
        return entry.reg
    }

    private func map(_ mappings: [VmaEntry], _ files: [FileKey: Int32], _ calls: CallStream) throws {
        var rest = mappings[...]
        while var mapping = rest.popFirst() {
            while let next = rest.first, next.continues(mapping) {
                mapping.end = next.end
                rest.removeFirst()
            }
            try map(mapping, files, calls)
        }
    }

    private func map(_ mapping: VmaEntry, _ files: [FileKey: Int32], _ calls: CallStream) throws {
        let bits = mapping.statusBits
        if bits.contains(.aioRing) { return }  // made by io_setup(2), AioRing
        if bits.contains(.sysV) { return }  // attached whole, before the others
        let keep: UInt32 = 1 | 2 | 8 | 0x100 | 0x4000 | 0x40000 | 0x3f << 26
        var flags = UInt64(mapping.flags & keep) | 0x100000  // MAP_FIXED_NOREPLACE: the place was cleared before
        if mapping.flags & 8 != 0 { flags = flags & ~3 | 8 }
        var number = UInt64.max
        if !bits.isDisjoint(with: .ofLaterFile) {  // its place is kept until the file exists (PacketSocket.mapRings, PluginMapping.map, IOUringFile.map)
            return try calls.call("mmap", SYS_mmap, mapping.start, mapping.length, 0, 0x100000 | 0x4000 | 0x22, number, 0)
        }
        if mapping.needsFile {
            guard let file = files[mapping.fileKey] else { throw CheckpointError("restore", .image("mm-\(process.pid).img"), "file id \(mapping.shmid) is unknown") }
            number = UInt64(file)
            flags &= ~UInt64(0x40000 | 0x3f << 26)
        } else { flags |= 0x20 }
        let protection = UInt64(mapping.prot) | (mapping.isPrivate ? 2 : 0)
        try calls.call("mmap", SYS_mmap, mapping.start, mapping.length, protection, flags, number, mapping.needsFile ? mapping.pgoff : 0)
    }

    /// Huge pages where the program asked for them and all of their memory is in the images. Elsewhere that comes later: what is read into a
    /// huge page takes all of it.
    private func adviseHugePages(_ mappings: [VmaEntry], _ calls: CallStream) throws {
        let hugePage: UInt64 = 2 << 20
        for mapping in mappings where mapping.madv & 1 << 14 != 0 && mapping.isPrivate && !isLazy {
            for run in process.images!.pages.runs(within: [mapping.start..<mapping.end]) {
                let start = (run.range.lowerBound + hugePage - 1) & ~(hugePage - 1), end = run.range.upperBound & ~(hugePage - 1)
                if start < end { try calls.call("madvise(MADV_HUGEPAGE)", SYS_madvise, start, end - start, 14, mayFail: true) }
            }
        }
    }

    /// Of madvise(2).
    private static let lastingAdvice: [UInt64] = [1, 2, 10, 12, 14, 15, 16, 18]

    /// Advice, locks and protection as they were, once the pages are in.
    private func finish(_ mapping: VmaEntry, _ calls: CallStream) throws {
        if !mapping.statusBits.isDisjoint(with: .ofOwnKind) { return }
        if mapping.hasMadv {
            for advice in Self.lastingAdvice where mapping.madv & 1 << advice != 0 && mapping.flags & 8 == 0 {
                try calls.call("madvise", SYS_madvise, mapping.start, mapping.length, advice, mayFail: advice == 12 || advice == 14 || advice == 15)
            }
        }
        if mapping.flags & 0x2000 != 0 {
            // mlock(2) brings every page in, so a locked mapping with pages missing was locked on fault (mlock2(2), MLOCK_ONFAULT).
            let present = process.images!.pages.runs(within: [mapping.start..<mapping.end]).reduce(0) { $0 + UInt64($1.range.count) }
            let onFault: UInt64 = mapping.statusBits.contains(.anonymousPrivate) && present < mapping.length ? 1 : 0
            try calls.call("mlock2", SYS_mlock2, mapping.start, mapping.length, onFault)
        }
        if mapping.isPrivate && mapping.prot & 2 == 0 { try calls.call("mprotect", SYS_mprotect, mapping.start, mapping.length, UInt64(mapping.prot)) }
    }

    private func nameMapping(_ name: StasisVmaName, _ mm: MmEntry, _ calls: CallStream) throws {
        guard let mapping = mm.vmas.first(where: { $0.start == name.start }), name.name.utf8.count < 80 else { return }
        try calls.add(data: 96) { batch in
            let text = batch.string(name.name)
            batch.call("prctl(PR_SET_VMA)", SYS_prctl, 0x53564d41, 0, .init(mapping.start), .init(mapping.length), text, mayFail: true)
        }
    }

    // MARK: pages

    private func readPages(_ plan: MemoryPlan, _ files: [FileKey: Int32], _ calls: CallStream, _ statistics: inout RestoreStatsEntry) throws {
        let image = process.images!.pages
        let own = plan.fresh.lazy.filter { $0.isPrivate && !$0.statusBits.contains(.aioRing) }
        var wanted = isLazy ? try urgent(image, Array(own)) : image.runs(within: own.map { $0.start..<$0.end })
        if !plan.inherited.isEmpty, let parent {
            wanted += try pagesThatDiffer(plan.inherited.map { $0.start..<$0.end }, image, from: parent.images!.pages, calls, &statistics)
        }
        try calls.flush()
        statistics.pagesRestored += wanted.reduce(0) { $0 + UInt64($1.range.count) / 4096 }
        guard !wanted.isEmpty else { return }
        let memory = FillableMemory(plan.fresh, for: wanted, in: process)
        let feeder = PageFeeder(workers: context.feeders, process: process.pid, owner: owner, fault: memory?.fault)
        let total = wanted.bytes
        var done: UInt64 = 0
        for (index, pages) in image.files.enumerated() {
            guard let number = files[Self.pagesKey(index)] else { throw CheckpointError("restore", .image(pages.name), "it is missing") }
            let mine = wanted.filter { $0.file == index }
            let fed = mine.filter { pages.regions != nil || memory?.contains($0) == true }, read = mine.filter { pages.regions == nil && memory?.contains($0) != true }
            verify(read)
            if !fed.isEmpty {
                try feeder.feed(fed, of: pages)
                context.log.info("task \(process.pid): \(fed.bytes) bytes of pages were filled in from \(pages.name)")
            }
            done += fed.bytes
            progress(done, total)
            if read.isEmpty { continue }
            var reader = PageReader(process: process.grafted, name: pages.name)
            reader.report = { [progress, done] in progress(done + $0, total) }
            try reader.read(read, from: number)
            done += read.bytes
        }
    }

    private var owner: Verification.Owner {
        let images = process.images!, pid = UInt32(bitPattern: images.pid)
        return .init(task: pid) { [set = images.set] in set.mapping(at: $0, of: pid) }
    }
    /// Beside the reading, from what both find in the page cache.
    private func verify(_ runs: [PageImage.Run]) { context.verification?.add(process.images!.pages, runs, of: owner) }

    private func restoreRing(_ ring: AioRingEntry, _ files: [FileKey: Int32]) throws {
        let image = process.images!.pages
        let range = ring.id..<(ring.id &+ UInt64(ring.ringLen))
        guard ring.ringLen > 0, ring.ringLen < 1 << 24, let run = image.runs(within: [range]).first, run.range == range else {
            throw CheckpointError("restore", .image("mm-\(process.pid).img"), "the AIO ring at 0x\(String(ring.id, radix: 16)) has no pages in the images")
        }
        verify([run])
        try AioRing.restore(ring, content: try PagesReader(image.files[run.file]).bytes(run.offset..<(run.offset + UInt64(ring.ringLen))), in: process.grafted, file: files[Self.executableKey] ?? 0)
    }

    /// Of inherited memory: pages that are not what the parent has. Pages that only the parent has are given up.
    private func pagesThatDiffer(
        _ ranges: [Range<UInt64>], _ own: PageImage, from parents: PageImage, _ calls: CallStream, _ statistics: inout RestoreStatsEntry
    ) throws -> [PageImage.Run] {
        var differing = [PageImage.Run]()
        func add(_ range: Range<UInt64>, of run: PageImage.Run) {
            let part = run.clamped(to: range)
            if let last = differing.last, last.range.upperBound == range.lowerBound, last.file == part.file, last.offset + UInt64(last.range.count) == part.offset {
                differing[differing.count - 1].range = last.range.lowerBound..<range.upperBound
            } else { differing.append(part) }
        }
        let mine = own.runs(within: ranges), theirs = parents.runs(within: ranges)
        let reader = own.files.map(PagesReader.init), parentsReader = parents.files.map(PagesReader.init)
        for run in mine {
            var at = run.range.lowerBound
            for other in parents.runs(within: [run.range]) {
                if other.range.lowerBound > at { add(at..<other.range.lowerBound, of: run) }
                let count = other.range.count / 4096
                let start = run.offset + other.range.lowerBound - run.range.lowerBound
                let equal = try PageComparison.equal(count: count) { part in
                    (try reader[run.file].bytes((start + part.lowerBound)..<(start + part.upperBound)),
                     try parentsReader[other.file].bytes((other.offset + part.lowerBound)..<(other.offset + part.upperBound)))
                }
                statistics.pagesCompared += UInt64(count)
                for (page, same) in equal.enumerated() {
                    let address = other.range.lowerBound + UInt64(page) * 4096
                    if same { statistics.pagesSkippedCow += 1 } else { add(address..<(address + 4096), of: run) }
                }
                at = other.range.upperBound
            }
            if at < run.range.upperBound { add(at..<run.range.upperBound, of: run) }
        }
        for run in theirs {
            var at = run.range.lowerBound
            for other in own.runs(within: [run.range]) {
                if other.range.lowerBound > at { try calls.call("madvise(MADV_DONTNEED)", SYS_madvise, at, other.range.lowerBound - at, 4) }
                at = other.range.upperBound
            }
            if at < run.range.upperBound { try calls.call("madvise(MADV_DONTNEED)", SYS_madvise, at, run.range.upperBound - at, 4) }
        }
        return differing
    }

    // MARK: fields of the address space

    /// prctl(2), PR_SET_MM_MAP: all fields, the auxiliary vector and the executable at once.
    private func setMemoryFields(_ mm: MmEntry, _ files: [FileKey: Int32], _ calls: CallStream) throws {
        // A child has its parent's executable already, and may not change it while it maps it (prctl(2), EBUSY).
        let inherited = parent?.images?.mm.exeFileID == mm.exeFileID
        let executable = UInt64(UInt32(bitPattern: inherited ? -1 : files[Self.executableKey] ?? -1))
        try calls.add(data: mm.mmSavedAuxv.count * 8 + 128) { batch in
            let vector = batch.words(mm.mmSavedAuxv)
            let fields = batch.words([
                mm.mmStartCode, mm.mmEndCode, mm.mmStartData, mm.mmEndData, mm.mmStartBrk, mm.mmBrk, mm.mmStartStack,
                mm.mmArgStart, mm.mmArgEnd, mm.mmEnvStart, mm.mmEnvEnd, mm.mmSavedAuxv.isEmpty ? 0 : vector.address,
                UInt64(mm.mmSavedAuxv.count * 8) | executable << 32,
            ])
            batch.call("prctl(PR_SET_MM_MAP)", SYS_prctl, 35, 14, fields.argument, .init(fields.count), 0)
        }
    }
}

extension VmaEntry {
    var needsFile: Bool { !statusBits.isDisjoint(with: .ofFile) && !statusBits.contains(.plugin) }
    /// Whether the kernel would join it with the mapping before it, were both writable: then one mmap(2) makes the two.
    func continues(_ before: VmaEntry) -> Bool {
        start == before.end && status == before.status && status == MappingStatus.plain.rawValue && flags == before.flags && flags & 0x100 == 0
            && prot | 2 == before.prot | 2
    }
    /// Shared memory is opened as it was; a private mapping only reads its file.
    var fileKey: MemoryRestorer.FileKey {
        .init(id: UInt32(truncatingIfNeeded: shmid), mode: hasFdflags ? fdflags & 3 : statusBits.contains(.fileShared) && prot & 2 != 0 ? 2 : 0)
    }
}

/// Reads pages from an image into place, by the process itself (preadv(2)); many pages by two threads of it.
struct PageReader {
    let process: GraftedTask
    let name: String
    /// Bytes for which a second thread is worth its making, some 0.1 ms.
    private static let worthHelp: UInt64 = 32 << 20
    /// Told now and then how many bytes are read.
    var report: (UInt64) -> Void = { _ in }

    init(process: GraftedTask, name: String) { (self.process, self.name) = (process, name) }

    func read(_ runs: [PageImage.Run], from number: Int32) throws {
        let transfer = VectoredTransfer(runs.lazy.map { ($0.range, $0.offset) }, populates: true)
        let bytes = runs.reduce(0) { $0 + UInt64($1.range.count) }
        // Where no thread can be made any more (pids.max), one reads alone.
        let helper = bytes >= Self.worthHelp ? try? Workspace.makeHelper(of: process) : nil
        if let helper { try? Affinity.set(Affinity.unrestricted, of: helper.task.id) }
        try transfer.run("preadv", SYS_preadv, on: number, in: [process] + (helper.map { [$0] } ?? []), report: { report($1) }) { call, result in
            if result == Int(call.bytes) { return }
            if result < 0 { throw CheckpointError("restore", .image(name), "its pages can't be read into place: \(Errno(Int32(-result)))", errno: Errno(Int32(-result))) }
            throw CheckpointError("restore", .image(name), "it ended early: \(result) of \(call.bytes) bytes")
        }
        try helper?.exit()
    }
}
