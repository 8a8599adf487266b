import Glibc
import ImageMessages
package import Kinds
package import Linux

/// What a dump of a running tree would refuse, found without stopping it: descriptors are taken out of the running tasks, and each kind
/// is asked to save them into nothing (`DumpContext.Purpose.explain`), again with the option that a refusal names. So what is refused, and in
/// which words, stands with the kinds alone. What only a stopped task shows (the content of queues) stays unseen.
package struct Explanation: Sendable {
    package let root: ThreadID, name: String
    package private(set) var processes = 0, threads = 0, descriptors = 0
    package private(set) var refusals: [CheckpointError] = []
    /// What an option answers.
    package private(set) var needs: [(option: String, refusal: CheckpointError)] = []
    /// What a plugin may save: only a dump asks it.
    package private(set) var left: [(subject: CheckpointError.Subject, plugin: String)] = []

    /// - Parameter granting: the settings with these options; nil for an option that can't be had.
    package init(
        of root: ThreadID, _ settings: DumpSettings, _ plugins: PluginSet, _ log: Log, granting: (([String]) -> DumpSettings?)? = nil
    ) throws {
        try Freeze.refuseWhatCannotBeDumped(root)
        (self.root, name) = (root, try TaskStat.of(root).comm)
        let context = DumpContext(settings: settings, log: log, images: try DumpImages.discarded(), purpose: .explain)
        (context.granting, context.plugins, context.mappings) = (granting, plugins, MappingReader(tree: root))
        let tree = Self.tree(root)
        var members = [TreePlan.Member](), living = [ThreadID]()
        for id in tree {
            guard let stat = try? TaskStat.of(id) else { continue }
            let dead = stat.state == "Z", ids = (try? Proc.threads(of: id)) ?? [id]
            members.append(.init(pid: id.rawValue, parent: stat.parent, group: stat.group, session: stat.session, dead: dead && ids.count == 1, threads: ids.map(\.rawValue)))
            context.members.formUnion(ids + [id])
            // What a dead leader had the other threads have (FrozenProcess.view).
            if !dead { living.append(id) } else if let other = ids.first(where: { $0 != id }) { living.append(other) }
            for thread in ids { if let traced = CheckpointError.traced(thread) { try context.refuse(traced) } }
            (processes, threads) = (processes + 1, threads + ids.count)
        }
        context.processes = living
        try context.attempt { _ = try TreePlan(members, shellJob: context.settings.shellJob) }
        descriptors = try context.attempt { try CheckpointError.about("dump", .task(root)) { try Self.look(living, context) } } ?? 0
        (refusals, needs, left) = (context.refusals, context.needs, context.left)
    }

    /// The tree as it runs: a parent before its children.
    static func tree(_ root: ThreadID) -> [ThreadID] {
        var found = [root], at = 0
        while at < found.count {
            found += Proc.children(of: found[at], threads: (try? Proc.threads(of: found[at])) ?? []).filter { !found.contains($0) }
            at += 1
        }
        return found
    }

    /// Answers how many descriptors the tree has.
    private static func look(_ living: [ThreadID], _ context: DumpContext) throws -> Int {
        let namespaces = try Namespaces.check(living, context), stay = try namespaces.enterNetwork(context)
        defer { stay?.leave() }
        let collector = try FileCollector(context, processes: living)
        context.saveFile = { try collector.saveInFlight($0, $1) }
        var sharing = Sharing(), tables = Set<UInt32>(), descriptors = 0
        for id in living {
            try context.attempt {
                try CheckpointError.about("dump", .task(id)) {
                    var ids = TaskKobjIdsEntry()
                    try sharing.fill(&ids, of: id, context)
                    if tables.insert(ids.filesID).inserted {
                        let numbers = try Proc.descriptors(of: id)
                        descriptors += numbers.count
                        _ = try collector.collect(numbers, of: id, closeOnExec: [])
                    }
                    if let error = FrozenRegisters.refusal(ofProgram: id) { try context.refuse(error) }
                    try context.attempt { _ = try PathFiles.executableID(of: id, context: context) }
                    try context.attempt { _ = try FileSystemContext.dump(of: id, status: try Proc.status(id), context) }
                    _ = try MemoryMap.dump(try context.mappings.all(of: id), of: id, scratch: nil, context)
                }
            }
        }
        try namespaces.saveNetwork(context)
        for late in context.late { try context.attempt { try CheckpointError.about("dump", .task(living[0])) { try late() } } }
        return descriptors
    }
}
