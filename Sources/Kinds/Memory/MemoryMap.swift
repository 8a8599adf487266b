import Glibc
package import ImageMessages
package import Linux

/// The mappings of a process: what smaps says, and the image's entries (format README, 8).
package enum MemoryMap {
    /// Turns mappings into entries, in address order. Files behind them get ids; what can't be saved is an error that names it.
    package static func dump(_ mappings: [Mapping], of process: ThreadID, scratch: Range<UInt64>?, _ context: DumpContext) throws -> [VmaEntry] {
        try context.attempt { try refuseMissing(mappings, of: process) }
        var entries = [VmaEntry]()
        entries.reserveCapacity(mappings.count)
        for mapping in mappings where scratch?.lowerBound != mapping.start {
            let subject = CheckpointError.Subject.mapping(mapping.start..<mapping.end, name: mapping.name, of: process)
            guard let entry = try context.attempt({ try CheckpointError.about("dump", subject) { try dump(mapping, of: process, subject, context) } }) else { continue }
            // [vvar] and [vvar_vclock] are one entry.
            if MappingStatus(rawValue: entry.status).contains(.vvar), let last = entries.last, last.statusBits.contains(.vvar), last.end == entry.start {
                entries[entries.count - 1].end = entry.end
            } else {
                entries.append(entry)
            }
        }
        return entries
    }

    /// A page that is still to come, from a lazy-pages daemon, looks like one that was never touched.
    package static func refuseMissing(_ mappings: [Mapping], of process: ThreadID) throws {
        guard let mapping = mappings.first(where: { $0.flags.contains(.userfaultMissing) }) else { return }
        throw CheckpointError(
            "dump", .mapping(mapping.start..<mapping.end, name: mapping.name, of: process), "a userfaultfd still gives it its pages (a lazy restore, restore --background-load, or the program itself)",
            remedy: "wait until the memory is loaded")
    }

    /// Private memory whose pages can be saved ahead of the dump and followed, in address order: as entries without the files behind
    /// them. Huge pages, AIO rings and the kernel's own areas are left to the dump.
    package static func trackable(_ mappings: [Mapping], scratch: Range<UInt64>?) -> [VmaEntry] {
        mappings.compactMap { mapping in
            if scratch?.lowerBound == mapping.start || mapping.shared || mapping.end > AddressSpace.end || mapping.flags.contains(.droppable) { return nil }
            var entry = VmaEntry()
            (entry.start, entry.end, entry.prot, entry.flags) = (mapping.start, mapping.end, UInt32(mapping.protection), mapping.imageFlags)
            switch MappingKind(mapping) {
            case .anonymous, .heap: entry.status = MappingStatus([.regular, .anonymousPrivate]).rawValue
            case .file, .memfd, .anonymousShared: entry.status = MappingStatus([.regular, .filePrivate]).rawValue
            default: return nil
            }
            return mapping.flags.contains(.hugetlb) ? nil : entry
        }
    }

    private static func dump(_ mapping: Mapping, of process: ThreadID, _ subject: CheckpointError.Subject, _ context: DumpContext) throws -> VmaEntry {
        var entry = VmaEntry()
        (entry.start, entry.end, entry.pgoff, entry.shmid, entry.fd) = (mapping.start, mapping.end, 0, 0, -1)
        entry.prot = UInt32(mapping.protection)
        entry.flags = mapping.imageFlags
        if mapping.imageAdvice != 0 { entry.madv = mapping.imageAdvice }
        func openMode() throws -> UInt32 {
            let link = try Files.status(mapping.mapFile(of: process), followLinks: false)
            return link.mode & 0o600 == 0o600 ? 2 : link.mode & 0o200 != 0 ? 1 : 0
        }
        var status: MappingStatus
        let isPlugins = try PluginMapping.claims(mapping, of: process, context)
        switch isPlugins ? .file : MappingKind(mapping) {
        case .vsyscall: (status, entry.flags) = ([.vsyscall, .anonymousPrivate], 0x22)
        case .vvar: (status, entry.flags) = ([.regular, .vvar, .anonymousPrivate], 0x22)
        case .vdso: (status, entry.flags) = ([.regular, .vdso, .anonymousPrivate], 0x22)
        case .anonymous where mapping.flags.contains(.shadowStack): throw CheckpointError("dump", subject, "it is a shadow stack", remedy: "start the program with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off")
        case .anonymous, .hugetlbPrivate:
            status = [.regular, .anonymousPrivate]
            entry.flags |= 0x20
        case .heap:
            status = [.regular, .anonymousPrivate, .heap]
            entry.flags |= 0x20
        case .file:
            status = mapping.shared ? [.regular, .fileShared] : [.regular, .filePrivate]
            entry.pgoff = mapping.offset
            entry.shmid = UInt64(try PathFiles.fileID(mapping: mapping, of: process, context: context))
            entry.fdflags = try openMode()
        case .memfd, .anonymousShared:
            status = mapping.shared ? [.regular, .fileShared, .memfd] : [.regular, .filePrivate, .memfd]
            entry.pgoff = mapping.offset
            entry.shmid = UInt64(try SharedMemory.memfdID(mapping: mapping, of: process, context: context))
            if case .anonymousShared = MappingKind(mapping) { entry.flags |= 0x20 }
            entry.fdflags = try openMode()
        case .sysV(let id):
            status = [.regular, .anonymousShared, .sysV]
            entry.pgoff = mapping.offset
            entry.shmid = id
            entry.flags |= 0x20
            entry.fdflags = try openMode()
            try SysVSharedMemory.dump(id: id, context)
        case .aioRing:
            status = [.aioRing]
            entry.flags = 1
        case .socket:
            status = [.regular, .socket]
            entry.shmid = UInt64(try PacketSocket.fileID(mapping: mapping, subject, context))
            entry.fdflags = try openMode()
        case .ioUring:
            status = [.regular, .ioUring]
            entry.pgoff = mapping.offset
            entry.shmid = UInt64(try IOUringFile.fileID(mapping: mapping, subject, context))
        case .unsupported where context.mayBePlugins(.claimMapping, mapping.name, subject): status = [.regular, .plugin]
        case .unsupported(let why):
            throw CheckpointError("dump", subject, why)
        }
        if isPlugins { status.insert(.plugin) }
        entry.status = status.rawValue
        return entry
    }
}

extension Mapping {
    /// The magic link to the mapped file, proc(5). It works for deleted files, too.
    package func mapFile(of process: ThreadID) -> String { "/proc/\(process)/map_files/\(String(start, radix: 16))-\(String(end, radix: 16))" }
}
