package import ImageMessages
package import Images
package import Linux

/// One object that a check has looked at.
package enum CheckFinding: Sendable {
    case fine(object: String, String), doubtful(object: String, String, remedy: String?), refused(CheckpointError)
}

/// What the kinds share during one restore.
package final class RestoreContext {
    package let settings: RestoreSettings
    package let log: Log
    package let images: ImageDirectory
    /// files.img by id.
    package let files: [UInt32: FileEntry]
    /// The same by type, in the order of their ids.
    package private(set) lazy var filesByType = files.keys.sorted().reduce(into: [FdTypes: [FileEntry]]()) { byType, id in
        if let file = files[id] { byType[file.type, default: []].append(file) }
    }
    /// Open files that exist, by id. Kept by us until every task has its copy.
    private var made: [UInt32: FileDescriptor] = [:]
    /// Looks at the pages that are read. The restore waits for it before anything runs.
    package var verification: Verification?
    /// Decompress pages and put them into place. Made before the conductor confines itself to one CPU.
    package let feeders = Workers()
    /// What runs when the restore fails: e.g. removes names that were made only for it. In reverse order.
    package var undo: [() -> Void] = []
    /// What runs when the restore has succeeded, or failed: e.g. removes ghosts' names.
    package var cleanup: [() -> Void] = []
    /// The process of the tree with that id, once it exists: stopped, its credentials still ours.
    package var task: (ThreadID) -> (any RestoredTask)? = { _ in nil }
    /// What runs when nothing can fail any more, just before the tasks do.
    package var beforeRun: [() -> Void] = []
    package var plugins = PluginSet()
    /// The interfaces of the tree's network namespace that was made, by name.
    package var networkDevices: [String: NetDeviceEntry] = [:]
    /// The id in the images of the network namespace that the tree was in.
    package var networkNamespaceID: UInt32 = 2
    /// dump_criu_run_id of the dump.
    package var runID = ""
    private var states: [ObjectIdentifier: AnyObject] = [:]

    /// --check-only: nothing is made; every finding is noted.
    package let checksOnly: Bool
    package private(set) var findings: [CheckFinding] = []

    package init(settings: RestoreSettings, log: Log, images: ImageDirectory, files: [UInt32: FileEntry], checksOnly: Bool = false) {
        (self.settings, self.log, self.images, self.files, self.checksOnly) = (settings, log, images, files, checksOnly)
    }

    private var chain: PageChain?
    /// The image directory and its parents.
    package func pageChain() throws(ImageError) -> PageChain {
        if let chain { return chain }
        let made = try PageChain(images, verifies: verification != nil)
        chain = made
        return made
    }

    /// Looks at one object. A check notes what it throws, or `found` when it does not; a restore throws it.
    package func verify(_ object: @autoclosure () -> String, _ found: @autoclosure () -> String, _ body: () throws -> Void) throws {
        guard checksOnly else { return try body() }
        do {
            try body()
            findings.append(.fine(object: object(), found()))
        } catch let error as CheckpointError { findings.append(.refused(error)) }
        catch let error as SyscallError { findings.append(.refused(CheckpointError("restore", .object(object()), "\(error)", errno: error.errno))) }
        catch { findings.append(.refused(CheckpointError("restore", .object(object()), "\(error)"))) }
    }
    package func doubt(_ object: String, _ text: String, remedy: String? = nil) { findings.append(.doubtful(object: object, text, remedy: remedy)) }
    /// Whether the images are those of a dump --check-only.
    package var imagesAreForChecks: Bool { (try? images.inventory().stasis.checkOnly) ?? false }

    package func made(_ id: UInt32, _ descriptor: FileDescriptor) { made[id] = descriptor }
    package func descriptor(of id: UInt32) -> FileDescriptor? { made[id] }
    package func requireDescriptor(of id: UInt32) throws -> FileDescriptor {
        guard let found = made[id] else { throw CheckpointError("restore", .image("files.img"), "file id \(id) was not restored") }
        return found
    }
    /// Every task has its copy. Thousands take a while to close: another thread does it, until `feeders` are finished.
    package func forgetDescriptors() {
        let copies = made
        made = [:]
        if copies.count > 1000 { feeders.run { [copies] in withExtendedLifetime(copies) {} } }
    }

    package func state<State: DumpState>(of type: State.Type) -> State {
        if let found = states[ObjectIdentifier(type)] as? State { return found }
        let made = State()
        states[ObjectIdentifier(type)] = made
        return made
    }
    package func isInherited(_ key: String) -> Bool { settings.inherited.contains { $0.key == key } }
    /// The descriptor of ours that --inherit-fd gives for `key`, duplicated.
    package func inherited(_ name: @autoclosure () -> String) throws -> FileDescriptor? {
        if settings.inherited.isEmpty { return nil }
        let key = name()
        guard let found = settings.inherited.first(where: { $0.key == key }) else { return nil }
        return FileDescriptor(owning: Int32(try Syscall.call("fcntl(F_DUPFD_CLOEXEC)", 72, Int(found.descriptor), 1030, 3, on: .fd(found.descriptor))))
    }
}
