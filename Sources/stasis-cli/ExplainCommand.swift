import Checkpoint
import Glibc
import Kinds
import Linux
import Options

/// `stasis explain -t PID`: what a dump would refuse or need an option for, and the command line that would work. Freezes nothing.
enum ExplainCommand {
    static func run(_ options: Options) -> Int32 {
        let log = Log(level: Log.Level(verbosity: options.verbosity))
        do {
            try Privileges.check(options)
            guard let tree = options.tree else { preconditionFailure("the command line demands -t") }
            let answer = try Answer(ThreadID(tree), options, try Session.plugins(options, images: FileDescriptor.open(".", O_RDONLY | O_DIRECTORY), log), log)
            Output.text(options.json ? answer.json.text + "\n" : answer.text)
            return answer.refused.isEmpty ? 0 : 1
        } catch {
            return Failure(error).report(json: options.json, command: .explain, log: log)
        }
    }
}

private struct Answer {
    private let explanation: Explanation
    /// --libdir, as given.
    private let pluginDirectory: String?
    var refused: [CheckpointError] { explanation.refusals }
    private var options: [String] { explanation.needs.map(\.option) }

    init(_ root: ThreadID, _ options: Options, _ plugins: PluginSet, _ log: Log) throws {
        pluginDirectory = options.pluginDirectory
        // Thousands of connections need the same option.
        var known: [[String]: DumpSettings?] = [:]
        explanation = try Explanation(of: root, DumpSettings(options), plugins, log) { wanted in
            if let found = known[wanted] { return found }
            // An option of a feature that is not there yet answers nothing.
            let parsed = try? Invocation(arguments: ["dump", "-t", "\(root)"] + Self.words(wanted), environment: { _ in nil }, readFile: { _ in nil })
            var settings: DumpSettings?
            if case .run(let options) = parsed { settings = DumpSettings(options) }
            known[wanted] = settings
            return settings
        }
    }

    /// Each option once; of sizes the largest.
    private static func words(_ options: [String]) -> [String] {
        var found = [String](), seen = Set<String>()
        var limit: UInt64 = 0
        for option in options {
            if option.hasPrefix("--ghost-limit ") { limit = max(limit, UInt64(option.dropFirst(14)) ?? 0) }
            else if seen.insert(option).inserted { found.append(option) }
        }
        if limit > 0 { found.append("--ghost-limit \(limit)") }
        return found.flatMap { $0.split(separator: " ", maxSplits: 1).map(String.init) }
    }

    private var pluginWords: [String] { explanation.left.isEmpty ? [] : pluginDirectory.map { ["-L", $0] } ?? [] }
    private var dumpWords: [String] { ["stasis", "dump", "-t", "\(explanation.root)", "-D", "DIR"] + Self.words(options) + pluginWords }
    private var restoreWords: [String] {
        let options = options.filter { option in
            let name = option.dropFirst(2).prefix { $0 != " " }
            return OptionTable.row(named: String(name))?.commands.contains(.restore) == true
        }
        return ["stasis", "restore", "-D", "DIR"] + Self.words(options) + pluginWords
    }
    private func line(_ words: [String]) -> String {
        words.map { $0.contains(where: { "[]() *?$'".contains($0) }) ? "'\($0)'" : $0 }.joined(separator: " ")
    }

    var text: String {
        func counted(_ count: Int, _ what: String, _ many: String) -> String { "\(count) \(count == 1 ? what : many)" }
        var lines = [
            "task \(explanation.root) (\(explanation.name)): \(counted(explanation.processes, "process", "processes")), "
                + "\(counted(explanation.threads, "thread", "threads")), \(counted(explanation.descriptors, "descriptor", "descriptors"))",
        ]
        for (option, refusal) in explanation.needs { lines.append("needs   \(option): \(refusal.subject): \(refusal.cause)") }
        for (subject, plugin) in explanation.left { lines.append("plugin  \(plugin) may save \(subject): only a dump asks it") }
        for refusal in refused {
            lines.append("refused \(refusal.subject): \(refusal.cause)")
            if let remedy = refusal.remedy { lines.append("          try: \(remedy)") }
        }
        lines += refused.isEmpty ? ["", line(dumpWords), line(restoreWords)] : ["", "a dump would be refused, whatever the options"]
        return lines.joined(separator: "\n") + "\n"
    }

    var json: JSON {
        .object([
            .init("command", .string("explain")), .init("ok", .bool(refused.isEmpty)), .init("root", .number(explanation.root.rawValue)),
            .init("processes", .number(explanation.processes)), .init("threads", .number(explanation.threads)),
            .init("descriptors", .number(explanation.descriptors)),
            .init("needs", .array(explanation.needs.map { .object([.init("option", .string($0.option)), .init("object", .string("\($0.refusal.subject)")), .init("cause", .string($0.refusal.cause))]) })),
            .init("plugins", .array(explanation.left.map { .object([.init("object", .string("\($0.subject)")), .init("plugin", .string($0.plugin))]) })),
            .init("refused", .array(refused.map { Verdict($0, about: "").json })),
            .init("dump", refused.isEmpty ? .array(dumpWords.map(JSON.string)) : .null),
            .init("restore", refused.isEmpty ? .array(restoreWords.map(JSON.string)) : .null),
        ])
    }
}
