public import ImageMessages

/// files.img: open file descriptions by id.
public struct FileTable: Sendable {
    public private(set) var entries: [UInt32: FileEntry] = [:]
    private let list: [FileEntry]
    /// Paths of tun devices, which share the id of their TUNF entry.
    private var tunPaths: [UInt32: RegFileEntry] = [:]

    public init(_ list: [FileEntry]) throws(ImageError) {
        self.list = list
        entries.reserveCapacity(list.count)
        for (place, entry) in list.enumerated() {
            guard let old = entries.updateValue(entry, forKey: entry.id) else { continue }
            switch (old.type, entry.type) {
            case (.reg, .tunf) where tunPaths[entry.id] == nil: tunPaths[entry.id] = old.reg
            case (.tunf, .reg) where tunPaths[entry.id] == nil: (tunPaths[entry.id], entries[entry.id]) = (entry.reg, old)
            default: throw ImageError("files.img", entry: place, field: "id", "\(entry.id) is there twice")
            }
        }
    }

    public subscript(id: UInt32) -> FileEntry? { entries[id] }

    /// Entries with their places in files.img, for messages; without the paths of tun devices.
    var places: [(place: Int, entry: FileEntry)] {
        list.enumerated().compactMap { place, entry in tunPaths.isEmpty || entry.type != .reg || entries[entry.id]?.type == .reg ? (place, entry) : nil }
    }

    /// The path behind an id: of a REG entry, or of a tun device.
    public func path(_ id: UInt32) -> RegFileEntry? { tunPaths[id] ?? entries[id].flatMap { $0.hasReg ? $0.reg : nil } }
}
