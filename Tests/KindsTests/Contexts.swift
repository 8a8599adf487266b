import Foundation
import Glibc
import ImageMessages
import Images
@testable import Kinds
import Linux

/// A directory that goes with the value, with everything in it.
final class Scratch {
    let path: String
    init(in parent: String = "/tmp") throws {
        path = parent + "/stasis-kinds-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
    func file(_ name: String, _ content: String = "", mode: UInt32 = 0o644) throws -> String {
        let made = try FileDescriptor.open(path + "/" + name, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
        try made.write(Array(content.utf8))
        _ = unsafe chmod(path + "/" + name, mode)
        return path + "/" + name
    }
    var names: [String] { ((try? Files.names(in: path)) ?? []).sorted() }
}

/// A dump of open files of this process into a directory of its own, and the restore that reads it back.
final class DumpAndRestore {
    let images: Scratch
    let dump: DumpContext
    private var kinds: [UInt32: any OpenFileKind.Type] = [:]
    private let directory: FileDescriptor

    init(_ adjust: (inout DumpSettings) -> Void = { _ in }) throws {
        images = try Scratch()
        directory = try FileDescriptor.open(images.path, O_RDONLY | O_DIRECTORY)
        var settings = DumpSettings()
        adjust(&settings)
        dump = DumpContext(settings: settings, log: Log(level: .error), images: DumpImages(directory: directory))
        dump.processes = [.current]
        dump.members = [.current]
    }

    /// Saves a file by the kind that claims it, as a dump does.
    @discardableResult
    func save(_ descriptor: FileDescriptor) throws -> FileEntry {
        let file = try OpenFile(id: dump.newFileID(), inThisProcess: descriptor)
        guard let kind = OpenFileKinds.all.first(where: { $0.claims(file) }) else { throw CheckpointError("dump", file.subject, "no kind claims it") }
        let entry = try kind.dump(file, dump)
        kinds[entry.id] = kind
        try dump.add(entry)
        return entry
    }

    /// What a restore of these images works with. Everything of the dump is on disk afterwards.
    func restore(_ adjust: (inout RestoreSettings) -> Void = { _ in }) throws -> RestoreContext {
        try dump.images.finish()
        var settings = RestoreSettings()
        adjust(&settings)
        let read = try ImageDirectory(directory)
        return RestoreContext(settings: settings, log: Log(level: .error), images: read, files: try read.files())
    }

    /// Makes all saved files again, kind by kind: `make`, then `finish`.
    func restoreAll(_ adjust: (inout RestoreSettings) -> Void = { _ in }) throws -> RestoreContext {
        let context = try restore(adjust)
        let used = OpenFileKinds.all.filter { kind in kinds.values.contains { $0 == kind } }
        func entries(_ kind: any OpenFileKind.Type) -> [FileEntry] { kinds.filter { $0.value == kind }.keys.sorted().compactMap { context.files[$0] } }
        do {
            for kind in used { try kind.make(entries(kind), context) }
            for kind in used { try kind.finish(entries(kind), context) }
        } catch {
            for undo in context.undo.reversed() { undo() }
            for clean in context.cleanup.reversed() { clean() }
            throw error
        }
        for clean in context.cleanup.reversed() { clean() }
        return context
    }
}
