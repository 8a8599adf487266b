package import Linux

/// What is being done, in the numbering of the plugin interface.
package enum PluginStage: Int32, Sendable { case dump, preDump, restore }

/// The moments at which plugins take part, in the numbering of the plugin interface (stasis-plugin.h).
package enum PluginHook: Int32, CaseIterable, Sendable {
    case dumpUnixSocket, restoreUnixSocket, dumpFile, restoreFile, dumpMount, restoreMount, dumpLink, claimMapping, updateMapping
    case resumeDevices, pauseDevices, checkpointDevices, afterForking, beginRestore, dumpDevicesLate

    /// Its name in the interface, for people who write plugins.
    package var name: String {
        switch self {
        case .dumpUnixSocket: "DUMP_UNIX_SK"
        case .restoreUnixSocket: "RESTORE_UNIX_SK"
        case .dumpFile: "DUMP_EXT_FILE"
        case .restoreFile: "RESTORE_EXT_FILE"
        case .dumpMount: "DUMP_EXT_MOUNT"
        case .restoreMount: "RESTORE_EXT_MOUNT"
        case .dumpLink: "DUMP_EXT_LINK"
        case .claimMapping: "HANDLE_DEVICE_VMA"
        case .updateMapping: "UPDATE_VMA_MAP"
        case .resumeDevices: "RESUME_DEVICES_LATE"
        case .pauseDevices: "PAUSE_DEVICES"
        case .checkpointDevices: "CHECKPOINT_DEVICES"
        case .afterForking: "POST_FORKING"
        case .beginRestore: "RESTORE_INIT"
        case .dumpDevicesLate: "DUMP_DEVICES_LATE"
        }
    }
}

/// How a dump or restore ended, for its plugins.
package enum PluginEnding: Equatable, Sendable {
    /// - Parameter treeRuns: the tree runs on after a dump, or runs after a restore.
    case done(treeRuns: Bool), failed
    package var treeRuns: Bool { if case .done(false) = self { false } else { true } }
}

/// Saves and restores what the kernel does not give out: device state, connections to services outside. `PluginSet` calls it.
///
/// A hook answers false or nil for an object that is not the plugin's own, and throws when the object is its own and can't be saved or
/// restored. The ids are those of the images (files.img); content goes into images of the plugin's own. docs/plugins.md says when each is called.
package protocol Plugin: AnyObject {
    /// As the inventory lists it.
    var name: String { get }
    /// The hooks it has; others are not called.
    var hooks: Set<PluginHook> { get }
    /// Why it can't do its work on this machine, for a restore whose images need it: "the program cuda-checkpoint is not in PATH".
    var obstacle: String? { get }
    /// What to do about the obstacle.
    var remedy: String? { get }

    /// Whether it may save such an object, as far as that can be told without asking it. - Parameter name: of the file or mapping.
    func mayTake(_ hook: PluginHook, _ name: String) -> Bool

    /// Throws what would keep a restore of these images from succeeding; nothing is made.
    func check(_ images: FileDescriptor) throws

    /// Before anything of the tree is touched. False: it takes no part in this.
    func begin(_ stage: PluginStage, _ session: PluginSession) throws -> Bool
    /// The last call, always. After a dump whose tree runs on it lets devices go on.
    func end(_ stage: PluginStage, _ ending: PluginEnding) throws

    /// A unix socket of the tree whose peer is outside.
    func dump(unixSocket: FileDescriptor, id: UInt32) throws -> Bool
    /// The socket again, connected.
    func restoreUnixSocket(id: UInt32) throws -> FileDescriptor?
    /// An open file that no image can hold.
    /// - Parameter process: one that has it.
    func dump(file: FileDescriptor, id: UInt32, of process: ThreadID) throws -> Bool
    func restoreFile(id: UInt32) throws -> RestoredByPlugin?
    /// A mount that comes from outside. - Parameter path: in the tree's mount namespace.
    func dump(mount path: String, id: UInt32) throws -> Bool
    /// Mounts it at `path`. Answers whether it is a file, nil when it is not the plugin's.
    func restoreMount(id: UInt32, path: String, oldRoot: String) throws -> Bool?
    func dump(link index: Int32, type: Int32, kind: String) throws -> Bool
    /// A mapping of a device file: whether its content is the plugin's business.
    func claims(mappingOf device: FileDescriptor) throws -> Bool
    /// Where a device mapping leads to in a restore. nil: to what the images say.
    func update(mappingOf path: String, address: UInt64, offset: UInt64, of process: ThreadID) throws -> UpdatedMapping?

    /// The process still runs; its devices come to rest.
    func pauseDevices(of process: ThreadID) throws
    /// The process stands still.
    func checkpointDevices(of process: ThreadID) throws
    /// Everything else is saved; the process stands still.
    func dumpDevicesLate(of process: ThreadID) throws
    /// The process is there again as it was, and stands still.
    func resumeDevices(of process: ThreadID) throws
    /// Before anything is made.
    func beginRestore() throws
    /// All processes exist, with their memory.
    func afterForking() throws
}

package enum RestoredByPlugin { case made(FileDescriptor), later }
package struct UpdatedMapping {
    package var offset: UInt64
    /// The file to map; nil: the one that the images name.
    package var file: FileDescriptor?
    package init(offset: UInt64, file: FileDescriptor?) { (self.offset, self.file) = (offset, file) }
}

extension Plugin {
    package var obstacle: String? { nil }
    package var remedy: String? { nil }
    package func check(_ images: FileDescriptor) throws {}
    package func mayTake(_ hook: PluginHook, _ name: String) -> Bool { hooks.contains(hook) && obstacle == nil }
    package func begin(_ stage: PluginStage, _ session: PluginSession) throws -> Bool { true }
    package func end(_ stage: PluginStage, _ ending: PluginEnding) throws {}
    package func dump(unixSocket: FileDescriptor, id: UInt32) throws -> Bool { false }
    package func restoreUnixSocket(id: UInt32) throws -> FileDescriptor? { nil }
    package func dump(file: FileDescriptor, id: UInt32, of process: ThreadID) throws -> Bool { false }
    package func restoreFile(id: UInt32) throws -> RestoredByPlugin? { nil }
    package func dump(mount path: String, id: UInt32) throws -> Bool { false }
    package func restoreMount(id: UInt32, path: String, oldRoot: String) throws -> Bool? { nil }
    package func dump(link index: Int32, type: Int32, kind: String) throws -> Bool { false }
    package func claims(mappingOf device: FileDescriptor) throws -> Bool { false }
    package func update(mappingOf path: String, address: UInt64, offset: UInt64, of process: ThreadID) throws -> UpdatedMapping? { nil }
    package func pauseDevices(of process: ThreadID) throws {}
    package func checkpointDevices(of process: ThreadID) throws {}
    package func dumpDevicesLate(of process: ThreadID) throws {}
    package func resumeDevices(of process: ThreadID) throws {}
    package func beginRestore() throws {}
    package func afterForking() throws {}
}

/// "plugin gpu crashed in DUMP_EXT_FILE (killed by signal 11)".
package struct PluginError: Error, Equatable, CustomStringConvertible {
    package let plugin: String
    package let cause: String
    package init(_ plugin: String, _ cause: String) { (self.plugin, self.cause) = (plugin, cause) }
    package var description: String { "plugin \(plugin) \(cause)" }
}

/// Which plugins a restore needs: `plugins_entry` of the inventory. Absent: the images are older than the field, any plugin may have been
/// used. Present: exactly those it lists were used; none, and none is needed, whatever a directory of plugins holds.
package enum NeededPlugins: Equatable, Sendable { case any, these([String]) }

/// What a plugin may know of the dump or restore it takes part in, and ask of it.
package final class PluginSession {
    package let images: FileDescriptor
    package let log: Log
    /// --timeout, seconds.
    package let timeout: Int
    /// nil in a dump.
    package let needed: NeededPlugins?
    /// The names for the inventory.
    package private(set) var used: [String] = []
    /// Lets one thread of the standing tree run while `body` works, with all signals held back; it stands still again afterwards.
    package var letRun: (_ thread: ThreadID, _ process: ThreadID, _ body: () throws -> Void) throws -> Void = { _, _, body in try body() }
    /// In a restore: the process, for calls that it must make itself; and the ids of the open files that it will have.
    package var task: (ThreadID) -> (any RestoredTask)? = { _ in nil }
    package var files: (ThreadID) -> Set<UInt32> = { _ in [] }

    package init(images: FileDescriptor, log: Log, timeout: Int = 10, needed: NeededPlugins? = nil) {
        (self.images, self.log, self.timeout, self.needed) = (images, log, timeout, needed)
    }
    /// In a dump: the restore needs the plugin.
    package func use(_ name: String) { if !used.contains(name) { used.append(name) } }
    /// In a restore: whether the plugin was used.
    package func needs(_ name: String) -> Bool {
        switch needed {
        case nil: false
        case .any: true
        case .these(let names): names.contains(name)
        }
    }
}
