public import ImageMessages

// The images of a task and the tables they refer to, each checked for itself. ImageSet holds them against each other.
extension ImageDirectory {
    public func inventory() throws(ImageError) -> InventoryEntry {
        let entry = try single("inventory.img", InventoryEntry.self)
        guard entry.imgVersion != 0 else {
            throw ImageError("inventory.img", field: "img_version", "this is a pre-dump: it serves as the parent of a dump and can't be restored by itself", remedy: "restore the dump that was made after it")
        }
        guard entry.imgVersion == 1 || entry.imgVersion == 2 else { throw ImageError("inventory.img", field: "img_version", "version \(entry.imgVersion) can't be restored") }
        guard entry.fdinfoPerID else { throw ImageError("inventory.img", field: "fdinfo_per_id", "the images are too old") }
        guard entry.hasRootIds else { throw ImageError("inventory.img", field: "root_ids", "it is missing") }
        return entry
    }

    /// Parents come before their children; ids are unique and in range. CRIU writes a zombie's only thread as 0; here it is the pid.
    public func pstree() throws(ImageError) -> [PstreeEntry] {
        var entries = try all("pstree.img", PstreeEntry.self)
        for index in entries.indices where entries[index].threads == [0] { entries[index].threads = [entries[index].pid] }
        if entries.isEmpty { throw ImageError("pstree.img", "it has no entry") }
        var seen = Set<UInt32>(), ids = Set<UInt32>()
        for (index, entry) in entries.enumerated() {
            func bad(_ field: String, _ cause: String) -> ImageError { ImageError("pstree.img", entry: index, field: field, cause) }
            guard entry.pid > 0, entry.pid <= 4 << 20 else { throw bad("pid", "\(entry.pid) is no process id") }
            guard index == 0 ? entry.ppid == 0 : seen.contains(entry.ppid) else { throw bad("ppid", "parent \(entry.ppid) does not come before it") }
            guard entry.pgid > 0, entry.pgid <= 4 << 20, entry.sid > 0, entry.sid <= 4 << 20 else { throw bad("pgid", "group \(entry.pgid) or session \(entry.sid) is out of range") }
            guard entry.threads.first == entry.pid else { throw bad("threads", "the first is not the process itself") }
            seen.insert(entry.pid)
            for thread in entry.threads {
                guard thread > 0, thread <= 4 << 20, ids.insert(thread).inserted else { throw bad("threads", "id \(thread) is out of range or taken twice") }
            }
        }
        return entries
    }

    public func core(_ id: UInt32) throws(ImageError) -> CoreEntry { try checked(single("core-\(id).img", CoreEntry.self), id) }
    private func checked(_ core: CoreEntry, _ id: UInt32) throws(ImageError) -> CoreEntry {
        func bad(_ field: String, _ cause: String) -> ImageError { ImageError("core-\(id).img", entry: 0, field: field, cause) }
        if core.tc.taskState == 2 { return core }
        guard core.hasThreadInfo || core.mtype != .x8664 || core.tc.stasis.hasLeaderStatus else { throw bad("thread_info", "it is missing") }
        guard core.hasThreadCore else { throw bad("thread_core", "it is missing") }
        guard core.threadCore.hasCreds else { throw bad("thread_core.creds", "it is missing") }
        if core.hasTc {
            guard core.tc.hasTimers else { throw bad("tc.timers", "it is missing") }
            guard core.tc.hasRlimits else { throw bad("tc.rlimits", "it is missing") }
            guard core.tc.sigactions.count == 62 else { throw bad("tc.sigactions", "\(core.tc.sigactions.count) of 62 entries") }
        }
        return core
    }

    public func ids(_ pid: UInt32) throws(ImageError) -> TaskKobjIdsEntry { try single("ids-\(pid).img", TaskKobjIdsEntry.self) }
    public func fs(_ pid: UInt32) throws(ImageError) -> FsEntry { try single("fs-\(pid).img", FsEntry.self) }

    public func mm(_ pid: UInt32) throws(ImageError) -> MmEntry {
        let mm = try single("mm-\(pid).img", MmEntry.self)
        var last: UInt64 = 0
        guard !mm.vmas.isEmpty else { throw ImageError("mm-\(pid).img", field: "vmas", "it has none") }
        guard mm.mmSavedAuxv.count <= 64 else { throw ImageError("mm-\(pid).img", field: "mm_saved_auxv", "\(mm.mmSavedAuxv.count) words are too many") }
        for (index, mapping) in mm.vmas.enumerated() where mapping.status & 0x10000 == 0 {
            guard mapping.start >= last, mapping.end > mapping.start, mapping.start % 4096 == 0, mapping.end % 4096 == 0,
                mapping.end <= 0x7fff_ffff_f000 || mapping.status & 4 != 0 else {
                throw ImageError("mm-\(pid).img", entry: 0, field: "vmas[\(index)]", "0x\(String(mapping.start, radix: 16))-0x\(String(mapping.end, radix: 16)) is out of order or range")
            }
            last = mapping.end
        }
        return mm
    }

    public func pagemap(_ pid: UInt32) throws(ImageError) -> (pagesID: UInt32, entries: [PagemapEntry]) { try pagemap("pagemap-\(pid).img") }
    public func pagemap(_ name: String) throws(ImageError) -> (pagesID: UInt32, entries: [PagemapEntry]) {
        var reader = try reader(name)
        let head = try reader.single(PagemapHead.self)
        return (head.pagesID, try reader.all(PagemapEntry.self))
    }

    /// A table without any descriptor has no image from CRIU; from us it always has one.
    public func fdinfo(_ table: UInt32) throws(ImageError) -> [FdinfoEntry] {
        let ours = (try? inventory().hasStasis) ?? false
        let entries = try all("fdinfo-\(table).img", FdinfoEntry.self, optional: !ours)
        var numbers = Set<UInt32>()
        for (index, entry) in entries.enumerated() {
            guard entry.fd < 1 << 30, numbers.insert(entry.fd).inserted else { throw ImageError("fdinfo-\(table).img", entry: index, field: "fd", "\(entry.fd) is out of range or there twice") }
        }
        return entries
    }

    /// files.img by id. A TUNF entry and the REG entry of its device path share an id (format 11.2); the table then has the TUNF
    /// entry, whose path `FileTable` knows.
    public func files() throws(ImageError) -> [UInt32: FileEntry] { try FileTable(try all(.files)).entries }
    public func seccomp() throws(ImageError) -> SeccompEntry { exists("seccomp.img") ? try single("seccomp.img", SeccompEntry.self) : SeccompEntry() }
    public func cgroup() throws(ImageError) -> CgroupEntry? { exists("cgroup.img") ? try single("cgroup.img", CgroupEntry.self) : nil }
}
