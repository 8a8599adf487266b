public import ImageMessages

/// files.img: open file descriptions by id.
public struct FileTable: Sendable {
    public private(set) var entries: [UInt32: FileEntry] = [:]
    /// Place of each entry in files.img, for messages.
    private(set) var places: [UInt32: Int] = [:]
    /// Paths of tun devices, which share the id of their TUNF entry.
    private var tunPaths: [UInt32: RegFileEntry] = [:]

    public init(_ list: [FileEntry]) throws(ImageError) {
        entries.reserveCapacity(list.count)
        places.reserveCapacity(list.count)
        for (place, entry) in list.enumerated() {
            guard let old = entries[entry.id] else {
                (entries[entry.id], places[entry.id]) = (entry, place)
                continue
            }
            switch (old.type, entry.type) {
            case (.reg, .tunf) where tunPaths[entry.id] == nil:
                tunPaths[entry.id] = old.reg
                (entries[entry.id], places[entry.id]) = (entry, place)
            case (.tunf, .reg) where tunPaths[entry.id] == nil: tunPaths[entry.id] = entry.reg
            default: throw ImageError("files.img", entry: place, field: "id", "\(entry.id) is there twice")
            }
        }
    }

    public subscript(id: UInt32) -> FileEntry? { entries[id] }

    /// The path behind an id: of a REG entry, or of a tun device.
    public func path(_ id: UInt32) -> RegFileEntry? { tunPaths[id] ?? entries[id].flatMap { $0.hasReg ? $0.reg : nil } }
}
