package import ImageMessages
import Images
import Linux

/// BPF maps (bpf(2)): hash tables and arrays with their content. A program that uses the map goes on with the old one: programs are
/// not part of a tree.
package enum BPFMapFile: OpenFileKind {
    package static var type: FdTypes { .bpfmap }
    private static let image = "bpfmap-data.img"

    package static func claims(_ file: OpenFile) -> Bool { file.link == "anon_inode:bpf-map" }

    /// HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LRU_PERCPU_HASH (include/uapi/linux/bpf.h).
    private static let types: Set<UInt32> = [1, 2, 5, 6, 9, 10]
    private static let perCPU: Set<UInt32> = [5, 6, 10]

    /// Content is saved once a map, however many descriptors it has.
    package final class Saved: DumpState { var maps: Set<UInt32> = []; package init() {} }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.bpfmap, file.id)
        entry.bpf = try CheckpointError.about("dump", file.subject) { try dumpMap(file, context) }
        return entry
    }

    private static func dumpMap(_ file: OpenFile, _ context: DumpContext) throws -> BpfmapFileEntry {
        let info = try BPFMap.info(of: file.descriptor), lines = try file.info()
        guard types.contains(info.type) else {
            throw CheckpointError("dump", file.subject, "it is a BPF map of type \(info.type); only hash tables and arrays can be saved", remedy: "close it in the program before the dump")
        }
        var entry = BpfmapFileEntry()
        (entry.id, entry.flags, entry.pos) = (file.id, file.flags, 0)
        entry.fown = try file.owner()
        (entry.mapType, entry.keySize, entry.valueSize, entry.mapID) = (info.type, info.keySize, info.valueSize, info.id)
        (entry.maxEntries, entry.mapFlags, entry.mapName, entry.ifindex) = (info.maximum, info.flags, info.name, info.interface)
        entry.memlock = lines.decimal("memlock").map { UInt64($0) } ?? 0
        entry.frozen = lines.decimal("frozen") == 1
        entry.mapExtra = info.extra
        if context.state(of: Saved.self).maps.insert(info.id).inserted { try saveContent(info, context) }
        return entry
    }

    private static func saveContent(_ info: BPFMapInfo, _ context: DumpContext) throws {
        // By its id: a descriptor of the tree may not be allowed to read.
        let content = try BPFMap.content(of: try BPFMap.open(id: info.id, flags: 2), info, valueSize: try valueSize(info.type, info.valueSize))
        if content.count == 0 { return }
        var entry = BpfmapDataEntry()
        (entry.mapID, entry.count) = (info.id, UInt32(content.count))
        (entry.keysBytes, entry.valuesBytes) = (UInt32(content.keys.count), UInt32(content.values.count))
        try context.images.append(image, entry, payload: content.keys + content.values)
    }

    /// Of maps with a value for each possible CPU these lie one behind the other, each rounded up to eight bytes.
    private static func valueSize(_ type: UInt32, _ size: UInt32) throws -> Int {
        guard perCPU.contains(type) else { return Int(size) }
        let ranges = try Files.text("/sys/devices/system/cpu/possible").split(whereSeparator: { $0 == "," || $0.isWhitespace })
        let cpus = ranges.reduce(0) { count, range in
            let ends = range.split(separator: "-").compactMap { Int($0) }
            return count + (ends.count == 2 ? ends[1] - ends[0] + 1 : 1)
        }
        return (Int(size) + 7) / 8 * 8 * cpus
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        if entries.isEmpty { return }
        var maps = [UInt32: UInt32]()  // old ids and new ones
        var kept = [FileDescriptor]()
        let contents = try readContents(context)
        for file in entries {
            guard file.hasBpf else { throw CheckpointError("restore", .image("files.img"), "entry \(file.id) of type BPFMAP holds no bpf message") }
            let entry = file.bpf
            try CheckpointError.about("restore", .object("BPF map '\(entry.mapName)', file id \(entry.id)")) {
                if maps[entry.mapID] == nil {
                    let map = try makeMap(entry, contents)
                    maps[entry.mapID] = try BPFMap.info(of: map).id
                    kept.append(map)
                }
                let opened = try BPFMap.open(id: maps[entry.mapID]!, flags: entry.flags)
                try FileOwner.restore(entry.fown, on: opened)
                try opened.setStatusFlags(entry.flags)
                context.made(file.id, opened)
            }
        }
    }

    private typealias Content = (entry: BpfmapDataEntry, keys: [UInt8], values: [UInt8])
    private static func readContents(_ context: RestoreContext) throws -> [UInt32: Content] {
        var found = [UInt32: Content]()
        guard context.images.exists(image) else { return found }
        var reader = try context.images.reader(image)
        while let entry = try reader.next(BpfmapDataEntry.self) {
            found[entry.mapID] = (entry, try reader.payload(UInt64(entry.keysBytes)), try reader.payload(UInt64(entry.valuesBytes)))
        }
        return found
    }

    private static func makeMap(_ entry: BpfmapFileEntry, _ contents: [UInt32: Content]) throws -> FileDescriptor {
        guard types.contains(entry.mapType), UInt64(entry.maxEntries) * UInt64(max(entry.keySize, entry.valueSize)) < 1 << 40 else {
            throw CheckpointError("restore", .image("files.img"), "file id \(entry.id): a BPF map of type \(entry.mapType) with \(entry.maxEntries) entries")
        }
        let perFile: UInt32 = 1 << 3 | 1 << 4  // BPF_F_RDONLY and BPF_F_WRONLY are those of the descriptor
        let map = try BPFMap.create(BPFMapInfo(
            type: entry.mapType, id: 0, keySize: entry.keySize, valueSize: entry.valueSize, maximum: entry.maxEntries, flags: entry.mapFlags & ~perFile,
            name: entry.mapName, interface: entry.ifindex, extra: entry.mapExtra))
        if let (saved, keys, values) = contents[entry.mapID] {
            let count = Int(saved.count)
            guard count <= entry.maxEntries, keys.count == count * Int(entry.keySize), values.count == count * (try valueSize(entry.mapType, entry.valueSize)) else {
                throw CheckpointError("restore", .image("bpfmap-data.img"), "map \(entry.mapID): \(count) entries in \(keys.count) and \(values.count) bytes")
            }
            if count > 0 { try BPFMap.update(map, keys: keys, values: values, count: count) }
        }
        if entry.frozen { try BPFMap.freeze(map) }
        return map
    }
}
