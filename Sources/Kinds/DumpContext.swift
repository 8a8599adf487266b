import Glibc
package import ImageMessages
package import Linux

/// What the kinds share during one dump: settings, log, images, the numbering of files. No kernel object is owned here.
package final class DumpContext {
    package enum Purpose: Sendable {
        /// Images to restore from.
        case dump
        /// --check-only: the tree stands; images without the content of memory; every refusal, not only the first.
        case check
        /// `explain`: the tree runs on; nothing is written, and nothing done that a task could notice.
        case explain
    }
    package let purpose: Purpose
    /// Whether what waits in queues, pipes and ghosts is read: a running task could notice, or take it at the same time.
    package var readsContent: Bool { purpose != .explain }
    /// Whether the content of memory is written.
    package var savesMemory: Bool { purpose == .dump }
    /// What a check has found that a dump would refuse, in the order it was met.
    package private(set) var refusals: [CheckpointError] = []
    /// Of those of `explain`, what an option answers.
    package private(set) var needs: [(option: String, refusal: CheckpointError)] = []
    /// What `explain` can't ask a plugin, for it would act.
    package private(set) var left: [(subject: CheckpointError.Subject, plugin: String)] = []
    /// Refusals and needs that are noted.
    private var noted: Set<String> = []
    package private(set) var settings: DumpSettings
    /// `explain`: the settings with these options, too; nil when an option is of a feature that is not there.
    package var granting: ((_ options: [String]) -> DumpSettings?)?
    /// The options that the object which is being looked at was found to need.
    private var granted: [String] = []
    package let log: Log
    package let images: DumpImages
    /// Processes of the tree (leaders), living ones, with the parent before its children.
    package var processes: [ThreadID] = []
    /// Thread ids and process ids of the tree, zombies included.
    package var members: Set<ThreadID> = []
    /// What runs when the dump ends in any way but by killing the tree: e.g. removes link remaps. In reverse order.
    package var undo: [() -> Void] = []
    /// Reads the tree's mappings.
    package var mappings = MappingReader.slow
    /// The id of the network namespace that is the tree's, for sockets' ns_id.
    package var networkNamespaceID: UInt32 = 2
    /// dump_criu_run_id: a random UUID that names what the dump leaves behind for the restore.
    package var runID = ""
    /// Runs a hook point of the action scripts.
    package var hook: (_ point: String) throws -> Void = { _ in }
    /// For a dump that ends the tree: what runs after the commit and the last hook, just before the tasks are killed; and when they are dead.
    package var beforeKill: [() throws -> Void] = [], afterKill: [() -> Void] = []
    /// What runs before a tree whose images are whole is left stopped: nobody knows whether it will run on or be killed.
    package var beforeStop: [() throws -> Void] = []
    /// What is left to do when every process has been saved, before the commit.
    package var late: [() throws -> Void] = []
    /// What is done when the tree runs again, before the commit (--snapshot).
    package var background: [() throws -> Void] = []
    /// Ends the copies that this is done from, as far as there still are any.
    package var endCopies: [() -> Void] = []
    package var statistics = DumpStatsEntry.zero
    /// What the kernel does not give out, they may.
    package var plugins = PluginSet()
    /// Takes the pages in place of the image directory.
    package var receiver: (any PageReceiver)?
    /// Segments of the host's System V shared memory that the tree uses.
    package var hostSharedMemory: [IpcShmEntry] = []
    private var nextFileID: UInt32 = 1
    private var nextPagesID: UInt32 = 1
    /// State that one kind keeps for the whole dump (caches by inode, ids): `context.state(of: Pipe.DumpState.self)`.
    private var states: [ObjectIdentifier: AnyObject] = [:]
    /// Queued descriptors (SCM_RIGHTS) and other files met on the way that have to be saved like descriptors of tasks:
    /// gives the file id, saving the file when it is new. Set by the stage that collects descriptors.
    package var saveFile: ((FileDescriptor, _ foundBy: CheckpointError.Subject) throws -> UInt32)?

    /// The dump is over: what was to be done holds this context, and with it the tree's open files.
    package func forgetSteps() {
        (undo, beforeKill, afterKill, beforeStop, late, background, endCopies) = ([], [], [], [], [], [], [])
        saveFile = nil
    }

    package init(settings: DumpSettings, log: Log, images: DumpImages, purpose: Purpose = .dump) {
        (self.settings, self.log, self.images, self.purpose) = (settings, log, images, purpose)
    }

    /// Saves one object. In a dump a refusal is the end; a check notes it (nil) and goes on to the next object. `explain` tries the object
    /// again with the option that answers the refusal.
    @discardableResult
    package func attempt<Value>(_ body: () throws -> Value) throws -> Value? {
        guard purpose != .dump else { return try body() }
        let outside = (settings, granted)
        defer { (settings, granted) = outside }
        while true {
            do { return try body() } catch let error as CheckpointError {
                // Closed or ended while we looked at it: weather.
                let gone: [Int32] = [ESRCH, ENOENT, EBADF]
                if purpose == .explain, let errno = error.errno, gone.contains(errno.rawValue) { return nil }
                guard let option = error.option, !granted.contains(option), let more = granting?(granted + [option]) else {
                    note(error)
                    return nil
                }
                note(error, answeredBy: option)
                settings = more
                granted.append(option)
            }
        }
    }
    /// What a refusal would be if it weren't a matter of its own: noted by a check, thrown by a dump.
    package func refuse(_ error: CheckpointError) throws {
        if purpose == .dump { throw error }
        if let option = error.option, granting?(granted + [option]) != nil { note(error, answeredBy: option) } else { note(error) }
    }
    private func note(_ error: CheckpointError, answeredBy option: String? = nil) {
        guard noted.insert("\(option ?? "") \(error)").inserted else { return }
        if let option { needs.append((option, error)) } else { refusals.append(error) }
    }
    /// Whether a plugin may save what is refused otherwise. A dump asks it; `explain` only notes it.
    package func mayBePlugins(_ hook: PluginHook, _ name: String, _ subject: CheckpointError.Subject) -> Bool {
        guard purpose == .explain, let plugin = plugins.candidate(for: hook, name) else { return false }
        left.append((subject, plugin))
        return true
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
