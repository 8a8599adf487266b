import ImageMessages
import Kinds
import Linux
import Testing

@testable import Checkpoint

@Suite("plugins of a dump or restore") struct PluginSetTests {
    /// In Swift; takes files with an even id.
    private final class Even: Plugin {
        let name: String, hooks: Set<PluginHook> = [.dumpFile, .restoreFile, .pauseDevices], obstacle: String?
        var stages: [PluginStage] = [], endings: [PluginEnding] = [], paused: [ThreadID] = []
        init(_ name: String = "even", obstacle: String? = nil) { (self.name, self.obstacle) = (name, obstacle) }
        func begin(_ stage: PluginStage, _ session: PluginSession) throws -> Bool {
            stages.append(stage)
            if stage == .dump { session.use(name) }
            return stage == .dump || session.needs(name)
        }
        func end(_ stage: PluginStage, _ ending: PluginEnding) { endings.append(ending) }
        func dump(file: FileDescriptor, id: UInt32, of process: ThreadID) throws -> Bool {
            if id == 13 { throw PluginError(name, "fears it") }
            return id.isMultiple(of: 2)
        }
        func pauseDevices(of process: ThreadID) throws {
            if process.rawValue == 13 { throw PluginError(name, "fears it") }
            paused.append(process)
        }
    }
    private func session(_ needed: NeededPlugins? = nil) throws -> PluginSession {
        PluginSession(images: try FileDescriptor.open("/", 0), log: Log(level: .silent), needed: needed)
    }

    @Test("the list of the inventory has three meanings") func list() throws {
        let set = PluginSet([Even("a"), Even("b", obstacle: "its program is gone")], broken: [PluginError("c", "could not be loaded: x")])
        var inventory = InventoryEntry()
        #expect(inventory.neededPlugins == .any)
        try set.check(inventory)
        inventory.pluginsEntry = PluginsEntry()
        #expect(inventory.neededPlugins == .these([]))
        try set.check(inventory)
        inventory.pluginsEntry.plugins = ["a"]
        try set.check(inventory)
        inventory.pluginsEntry.plugins = ["a", "b", "c", "d"]
        let error = #expect(throws: CheckpointError.self) { try set.check(inventory) }
        #expect(error?.cause == "the dump used the plugins b, c, d, which are not here (its program is gone; it could not be loaded: x)")
    }

    @Test("an object goes to the first that takes it; a refusal names object and plugin") func claims() throws {
        let first = Even(), second = Even("second"), set = PluginSet([first, second])
        try set.begin(.dump, try session())
        #expect(set.used == ["even", "second"])
        let file = try FileDescriptor.open("/dev/null", 0)
        #expect(try set.dump(file: file, id: 2, of: 1))
        #expect(try !set.dump(file: file, id: 3, of: 1))
        #expect(throws: PluginError("even", "fears it")) { try set.dump(file: file, id: 13, of: 1) }
        let error = #expect(throws: CheckpointError.self) { try set.pauseDevices(of: [ThreadID(5), ThreadID(13)]) }
        #expect(error?.description == "cannot pause the devices of task 13: plugin even fears it")
        #expect(first.paused == [ThreadID(5)])
        set.end(.failed)
        set.end(.done(treeRuns: true))
        #expect(first.endings == [.failed] && second.endings == [.failed])
    }

    @Test("a plugin that the images do not need takes no part") func notNeeded() throws {
        let plugin = Even(), set = PluginSet([plugin])
        #expect(set.offers(.restoreFile))
        try set.begin(.restore, try session(.these([])))
        #expect(!set.has(.restoreFile))
        set.end(.done(treeRuns: true))
        #expect(plugin.endings.isEmpty)
        try set.begin(.restore, try session(.any))
        #expect(set.has(.restoreFile))
    }
}
