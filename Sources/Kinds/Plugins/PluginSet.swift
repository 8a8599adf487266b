package import ImageMessages
package import Linux

extension InventoryEntry {
    package var neededPlugins: NeededPlugins { hasPluginsEntry ? .these(pluginsEntry.plugins) : .any }
}

/// The plugins of one dump or restore. An object is offered to one after the other until one of them takes it.
package final class PluginSet {
    private let plugins: [any Plugin]
    /// Those that take part.
    private var active: [any Plugin] = []
    private var stage = PluginStage.dump
    /// Files that could not be loaded, with the reason.
    private let broken: [PluginError]
    /// Those of ours that take no part whatever the tree has, each with what to do about it.
    private let leftOut: [String: String]
    package private(set) var session: PluginSession?

    package init(_ plugins: [any Plugin] = [], broken: [PluginError] = [], leavingOut leftOut: [String: String] = [:]) {
        (self.plugins, self.broken, self.leftOut) = (plugins, broken, leftOut)
    }

    /// The names for the inventory.
    package var used: [String] { session?.used ?? [] }
    package func has(_ hook: PluginHook) -> Bool { active.contains { $0.hooks.contains(hook) } }
    /// Whether one that is here could take part with this hook, before any was started.
    package func offers(_ hook: PluginHook) -> Bool { plugins.contains { $0.hooks.contains(hook) } }

    /// The first that may save such an object; none was started.
    package func candidate(for hook: PluginHook, _ name: String) -> String? { plugins.first { $0.mayTake(hook, name) }?.name }

    /// What to do about an object that a plugin of ours would save, if it could. nil: it can, or is none.
    package func remedy(for name: String) -> String? { leftOut[name] ?? plugins.first { $0.name == name }?.remedy }

    /// Whether every plugin that the images need is here and can work.
    package func check(_ inventory: InventoryEntry) throws(CheckpointError) {
        guard case .these(let names) = inventory.neededPlugins else { return }
        let missing = names.filter { name in !plugins.contains { $0.name == name && $0.obstacle == nil } }
        if missing.isEmpty { return }
        let reasons = missing.compactMap { name in
            plugins.first { $0.name == name }?.obstacle ?? broken.first { $0.plugin == name }.map { "it \($0.cause)" }
        }
        throw CheckpointError(
            "restore", .image("inventory.img"),
            "the dump used the plugin\(missing.count == 1 ? "" : "s") \(missing.joined(separator: ", ")), which \(missing.count == 1 ? "is" : "are") not here"
                + (reasons.isEmpty ? "" : " (\(reasons.joined(separator: "; ")))"),
            remedy: reasons.isEmpty ? "name the directory of \(missing[0]).so with --libdir" : nil)
    }

    /// What else would keep a restore from succeeding, as far as the needed ones can tell.
    package func check(_ inventory: InventoryEntry, _ images: FileDescriptor) throws {
        try check(inventory)
        guard case .these(let names) = inventory.neededPlugins else { return }
        for plugin in plugins where names.contains(plugin.name) { try about("restore with") { try plugin.check(images) } }
    }

    /// Before anything of the tree is touched.
    package func begin(_ stage: PluginStage, _ session: PluginSession) throws {
        (self.stage, self.session) = (stage, session)
        do {
            for plugin in plugins { try about("start") { if try plugin.begin(stage, session) { active.append(plugin) } } }
        } catch {
            end(.failed)
            throw error
        }
        if !active.isEmpty { session.log.info("plugins: \(active.map(\.name).joined(separator: ", "))") }
    }

    /// The last call. What fails here is only logged: the dump or restore has ended.
    package func end(_ ending: PluginEnding) {
        let ended = active
        active = []
        for plugin in ended.reversed() {
            do { try plugin.end(stage, ending) } catch { session?.log.warn("\(error)") }
        }
        session?.letRun = { _, _, body in try body() }
    }

    private func about<Value>(_ action: String, _ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as PluginError { throw CheckpointError(action, .object("plugin \(error.plugin)"), "it \(error.cause)") }
    }

    // MARK: objects

    /// The first answer that is not nil.
    private func first<Value>(_ hook: PluginHook, _ body: (any Plugin) throws -> Value?) throws -> Value? {
        for plugin in active where plugin.hooks.contains(hook) { if let value = try body(plugin) { return value } }
        return nil
    }
    private func claims(_ hook: PluginHook, _ body: (any Plugin) throws -> Bool) throws -> Bool {
        try first(hook) { try body($0) ? true : nil } ?? false
    }

    package func dump(unixSocket: FileDescriptor, id: UInt32) throws -> Bool { try claims(.dumpUnixSocket) { try $0.dump(unixSocket: unixSocket, id: id) } }
    package func restoreUnixSocket(id: UInt32) throws -> FileDescriptor? { try first(.restoreUnixSocket) { try $0.restoreUnixSocket(id: id) } }
    package func dump(file: FileDescriptor, id: UInt32, of process: ThreadID) throws -> Bool { try claims(.dumpFile) { try $0.dump(file: file, id: id, of: process) } }
    package func restoreFile(id: UInt32) throws -> RestoredByPlugin? { try first(.restoreFile) { try $0.restoreFile(id: id) } }
    package func dump(mount path: String, id: UInt32) throws -> Bool { try claims(.dumpMount) { try $0.dump(mount: path, id: id) } }
    package func restoreMount(id: UInt32, path: String, oldRoot: String) throws -> Bool? {
        try first(.restoreMount) { try $0.restoreMount(id: id, path: path, oldRoot: oldRoot) }
    }
    package func dump(link index: Int32, type: Int32, kind: String) throws -> Bool { try claims(.dumpLink) { try $0.dump(link: index, type: type, kind: kind) } }
    package func claims(mappingOf device: FileDescriptor) throws -> Bool { try claims(.claimMapping) { try $0.claims(mappingOf: device) } }
    package func update(mappingOf path: String, address: UInt64, offset: UInt64, of process: ThreadID) throws -> UpdatedMapping? {
        try first(.updateMapping) { try $0.update(mappingOf: path, address: address, offset: offset, of: process) }
    }

    // MARK: devices

    private func each(_ hook: PluginHook, _ body: (any Plugin) throws -> Void) throws {
        for plugin in active where plugin.hooks.contains(hook) { try body(plugin) }
    }
    private func each(_ hook: PluginHook, of processes: [ThreadID], _ action: String, _ body: (any Plugin, ThreadID) throws -> Void) throws {
        guard has(hook) else { return }
        for process in processes { try CheckpointError.about(action, .task(process)) { try each(hook) { try body($0, process) } } }
    }

    package func pauseDevices(of processes: [ThreadID]) throws { try each(.pauseDevices, of: processes, "pause the devices of") { try $0.pauseDevices(of: $1) } }
    package func checkpointDevices(of processes: [ThreadID]) throws {
        try each(.checkpointDevices, of: processes, "save the devices of") { try $0.checkpointDevices(of: $1) }
    }
    package func dumpDevicesLate(of processes: [ThreadID]) throws {
        try each(.dumpDevicesLate, of: processes, "save the devices of") { try $0.dumpDevicesLate(of: $1) }
    }
    package func resumeDevices(of processes: [ThreadID]) throws {
        try each(.resumeDevices, of: processes, "resume the devices of") { try $0.resumeDevices(of: $1) }
    }
    package func beginRestore() throws { try about("restore with") { try each(.beginRestore) { try $0.beginRestore() } } }
    package func afterForking() throws { try about("restore with") { try each(.afterForking) { try $0.afterForking() } } }
}
