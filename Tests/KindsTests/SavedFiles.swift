import Glibc
import ImageMessages
import Images
@testable import Kinds
import Linux

/// Open files of this process saved into a directory of their own, and the context of a restore that reads it back.
final class SavedFiles {
    let dump: DumpContext
    private let path: String, directory: FileDescriptor
    private var kinds: [UInt32: any OpenFileKind.Type] = [:]

    init() throws {
        path = "/tmp/stasis-saved-\(getpid())-\(UInt32.random(in: 0...(.max)))"
        try Syscall.call("mkdir", 83, path: path, at: 0, 0o700)
        directory = try FileDescriptor.open(path, O_RDONLY | O_DIRECTORY)
        dump = DumpContext(settings: DumpSettings(), log: Log(level: .error), images: DumpImages(directory: directory))
        dump.processes = [.current]
        dump.members = [.current]
    }
    deinit {
        for name in (try? Files.names(in: path)) ?? [] { try? Files.unlink(name, at: directory.number) }
        try? Files.unlink(path, flags: AT_REMOVEDIR)
    }

    @discardableResult
    func save(_ descriptor: FileDescriptor) throws -> FileEntry {
        let file = try OpenFile(id: dump.newFileID(), inThisProcess: descriptor)
        guard let kind = OpenFileKinds.all.first(where: { $0.claims(file) }) else { throw CheckpointError("dump", file.subject, "no kind claims it") }
        let entry = try kind.dump(file, dump)
        kinds[entry.id] = kind
        try dump.add(entry)
        return entry
    }

    /// The images are on disk afterwards.
    func restore(_ adjust: (inout RestoreSettings) -> Void = { _ in }) throws -> RestoreContext {
        try dump.images.finish()
        var settings = RestoreSettings()
        adjust(&settings)
        let read = try ImageDirectory(directory)
        return RestoreContext(settings: settings, log: Log(level: .error), images: read, files: read.exists("files.img") ? try read.files() : [:])
    }

    /// Puts another entry behind those of an image that is on disk.
    func append(_ entry: PagemapEntry, to name: String) throws {
        let file = try FileDescriptor.open(name, O_WRONLY | O_APPEND, at: directory.number)
        try file.write(try ImageWriter.frame(entry))
    }

    /// Makes all of them again, kind by kind.
    func restoreAll(_ adjust: (inout RestoreSettings) -> Void = { _ in }) throws -> RestoreContext {
        let context = try restore(adjust)
        let used = OpenFileKinds.all.filter { kind in kinds.values.contains { $0 == kind } }
        func entries(_ kind: any OpenFileKind.Type) -> [FileEntry] { kinds.filter { $0.value == kind }.keys.sorted().compactMap { context.files[$0] } }
        for kind in used { try kind.make(entries(kind), context) }
        for kind in used { try kind.finish(entries(kind), context) }
        return context
    }
}
