package import ImageMessages
package import Images
package import Linux

/// What the kinds share during one restore.
package final class RestoreContext {
    package let settings: RestoreSettings
    package let log: Log
    package let images: ImageDirectory
    /// files.img by id.
    package let files: [UInt32: FileEntry]
    /// Open files that exist, by id. Kept by us until every task has its copy.
    private var made: [UInt32: FileDescriptor] = [:]
    /// What runs when the restore fails: e.g. removes names that were made only for it. In reverse order.
    package var undo: [() -> Void] = []
    /// What runs when the restore has succeeded, or failed: e.g. removes ghosts' names.
    package var cleanup: [() -> Void] = []
    private var states: [ObjectIdentifier: AnyObject] = [:]

    package init(settings: RestoreSettings, log: Log, images: ImageDirectory, files: [UInt32: FileEntry]) {
        (self.settings, self.log, self.images, self.files) = (settings, log, images, files)
    }

    private var chain: PageChain?
    /// The image directory and its parents.
    package func pageChain() throws(ImageError) -> PageChain {
        if let chain { return chain }
        let made = try PageChain(images)
        chain = made
        return made
    }

    package func made(_ id: UInt32, _ descriptor: FileDescriptor) { made[id] = descriptor }
    package func descriptor(of id: UInt32) -> FileDescriptor? { made[id] }
    package func requireDescriptor(of id: UInt32) throws -> FileDescriptor {
        guard let found = made[id] else { throw CheckpointError("restore", .image("files.img"), "file id \(id) was not restored") }
        return found
    }
    package func forgetDescriptors() { made = [:] }

    package func state<State: DumpState>(of type: State.Type) -> State {
        if let found = states[ObjectIdentifier(type)] as? State { return found }
        let made = State()
        states[ObjectIdentifier(type)] = made
        return made
    }
    package func isInherited(_ key: String) -> Bool { settings.inherited.contains { $0.key == key } }
    /// The descriptor of ours that --inherit-fd gives for `key`, duplicated.
    package func inherited(_ key: String) throws -> FileDescriptor? {
        guard let found = settings.inherited.first(where: { $0.key == key }) else { return nil }
        return FileDescriptor(owning: Int32(try Syscall.call("fcntl(F_DUPFD_CLOEXEC)", 72, Int(found.descriptor), 1030, 3, on: .fd(found.descriptor))))
    }
}
