package import ImageMessages
import Linux

/// An open file that only a plugin can save: the image has its id, the plugin has the rest. `FileCollector` offers it what no other kind takes.
package enum PluginFile: OpenFileKind {
    package static let type = FdTypes.ext

    package static func claims(_ file: OpenFile) -> Bool { false }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.ext, file.id)
        entry.ext.id = file.id
        entry.ext.fown = try CheckpointError.about("dump", file.subject) { try file.owner() }
        return entry
    }

    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries { try context.verify("file id \(entry.id)", "there is a plugin that may restore it") { if !context.plugins.offers(.restoreFile) { throw unclaimed(entry) } } }
    }

    /// Files that their plugins put off.
    private final class Later: DumpState {
        var entries: [FileEntry] = []
        init() {}
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws { context.state(of: Later.self).entries = try restore(entries, context) }

    /// Again and again, as long as more of them come.
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {
        var left = context.state(of: Later.self).entries
        while let first = left.first {
            let later = try restore(left, context)
            if later.count == left.count {
                throw CheckpointError("restore", .object("file id \(first.id)"), "its plugin puts it off, and there is nothing left to wait for")
            }
            left = later
        }
    }

    /// Answers those that are put off.
    private static func restore(_ entries: [FileEntry], _ context: RestoreContext) throws -> [FileEntry] {
        try entries.filter { file in
            try CheckpointError.about("restore", .object("file id \(file.id)")) {
                switch try context.plugins.restoreFile(id: file.id) {
                case nil: throw unclaimed(file)
                case .later: return true
                case .made(let descriptor):
                    if file.ext.fown.pid != 0 || file.ext.fown.signum != 0 { try FileOwner.restore(file.ext.fown, on: descriptor) }
                    context.made(file.id, descriptor)
                    return false
                }
            }
        }
    }

    private static func unclaimed(_ file: FileEntry) -> CheckpointError {
        CheckpointError("restore", .object("file id \(file.id)"), "it was saved by a plugin, and no plugin here knows it", remedy: "name the directory of the dump's plugins with --libdir")
    }
}
