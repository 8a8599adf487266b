package import ImageMessages
package import Linux

/// What the kinds share during one dump: settings, log, images, the numbering of files. No kernel object is owned here.
package final class DumpContext {
    package let settings: DumpSettings
    package let log: Log
    package let images: DumpImages
    /// Processes of the tree (leaders), living ones, with the parent before its children.
    package var processes: [ThreadID] = []
    /// Thread ids and process ids of the tree, zombies included.
    package var members: Set<ThreadID> = []
    /// What runs when the dump ends in any way but by killing the tree: e.g. removes link remaps. In reverse order.
    package var undo: [() -> Void] = []
    /// The id of the network namespace that is the tree's, for sockets' ns_id.
    package var networkNamespaceID: UInt32 = 2
    /// What is left to do when every process has been saved, before the commit.
    package var late: [() throws -> Void] = []
    package var statistics = DumpStatsEntry.zero
    /// Segments of the host's System V shared memory that the tree uses.
    package var hostSharedMemory: [IpcShmEntry] = []
    private var nextFileID: UInt32 = 1
    private var nextPagesID: UInt32 = 1
    /// State that one kind keeps for the whole dump (caches by inode, ids): `context.state(of: Pipe.DumpState.self)`.
    private var states: [ObjectIdentifier: AnyObject] = [:]
    /// Queued descriptors (SCM_RIGHTS) and other files met on the way that have to be saved like descriptors of tasks:
    /// gives the file id, saving the file when it is new. Set by the stage that collects descriptors.
    package var saveFile: ((FileDescriptor, _ foundBy: CheckpointError.Subject) throws -> UInt32)?

    package init(settings: DumpSettings, log: Log, images: DumpImages) {
        (self.settings, self.log, self.images) = (settings, log, images)
    }
    package func newFileID() -> UInt32 {
        defer { nextFileID += 1 }
        return nextFileID
    }
    package func newPagesID() -> UInt32 {
        defer { nextPagesID += 1 }
        return nextPagesID
    }
    /// Adds an entry to files.img.
    package func add(_ entry: FileEntry) throws { try images.append("files.img", entry) }

    package func state<State: DumpState>(of type: State.Type) -> State {
        if let found = states[ObjectIdentifier(type)] as? State { return found }
        let made = State()
        states[ObjectIdentifier(type)] = made
        return made
    }
}
package protocol DumpState: AnyObject { init() }
