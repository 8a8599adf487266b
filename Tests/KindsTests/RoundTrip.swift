import Glibc
import ImageMessages
import Images
import Kinds
import Linux

/// Open files of this process, dumped, closed and made again, through images in a directory of their own.
final class RoundTrip {
    private(set) var directory: String
    var dumpSettings = DumpSettings(), restoreSettings = RestoreSettings()
    private(set) var entries: [FileEntry] = []
    /// Entries that descriptors stand for; others are paths of devices.
    private var used = Set<UInt32>()
    /// The restore's context: tests look at what was made in it.
    private(set) var restored: RestoreContext?

    init() throws {
        var template = Array("/tmp/stasis-test-XXXXXX".utf8CString)
        guard unsafe mkdtemp(&template) != nil else { throw SyscallError("mkdtemp", nil, errno) }
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
    deinit {
        for name in (try? Files.names(in: directory)) ?? [] { _ = try? Files.unlink(directory + "/" + name) }
        _ = try? Files.unlink(directory, flags: AT_REMOVEDIR)
    }
    private func open() throws -> FileDescriptor { try FileDescriptor.open(directory, O_RDONLY | O_DIRECTORY) }

    /// Dumps what `files` gives; every file that the kinds meet on the way too. Nothing of it is held when this returns.
    func dump(_ files: [FileDescriptor], by kinds: [any OpenFileKind.Type] = OpenFileKinds.all) throws {
        let images = DumpImages(directory: try open())
        let context = DumpContext(settings: dumpSettings, log: Log(level: .silent), images: images)
        context.processes = [.current]
        used = []
        var known = [(number: FileDescriptor, id: UInt32)]()
        func save(_ descriptor: FileDescriptor) throws -> UInt32 {
            for one in known where isSameFile(one.number, descriptor) { return one.id }
            let id = context.newFileID()
            known.append((descriptor, id))
            used.insert(id)
            let file = try OpenFile(id: id, inThisProcess: descriptor)
            guard let kind = kinds.first(where: { $0.claims(file) }) else { throw CheckpointError("dump", file.subject, "no kind claims it") }
            try context.add(try kind.dump(file, context))
            return id
        }
        context.saveFile = { descriptor, _ in try save(descriptor) }
        // They hold the context, and us.
        defer { (context.late, context.saveFile) = ([], nil) }
        for file in files { _ = try save(file) }
        for step in context.late { try step() }
        try images.finish()
    }

    /// Makes everything in the images again, in the order of the entries.
    @discardableResult
    func restore(by kinds: [any OpenFileKind.Type] = OpenFileKinds.all) throws -> [FileDescriptor] {
        let images = try ImageDirectory(open())
        entries = try images.all("files.img", FileEntry.self).filter { used.contains($0.id) || ($0.type == .unixsk && $0.usk.uflags & 1 != 0) }
        let context = RestoreContext(settings: restoreSettings, log: Log(level: .silent), images: images, files: try images.files())
        restored = context
        do {
            for kind in kinds { try kind.make(entries.filter { $0.type == kind.type }, context) }
            for kind in kinds { try kind.finish(entries.filter { $0.type == kind.type }, context) }
        } catch {
            for step in context.undo.reversed() { step() }
            throw error
        }
        defer { context.forgetDescriptors() }
        return entries.sorted { $0.id < $1.id }.compactMap { entry in
            entry.type == .unixsk && entry.usk.uflags & 1 != 0 ? nil : context.descriptor(of: entry.id)
        }
    }

    /// Dump, close, restore. `make` gives up what it returns.
    func roundTrip(_ make: () throws -> [FileDescriptor]) throws -> [FileDescriptor] {
        do { try dump(try make()) }
        return try restore()
    }

    /// kcmp(2), KCMP_FILE.
    private func isSameFile(_ a: FileDescriptor, _ b: FileDescriptor) -> Bool {
        (try? Syscall.call("kcmp", 312, Int(getpid()), Int(getpid()), 0, Int(a.number), Int(b.number))) == 0
    }
}
