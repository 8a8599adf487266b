import Checkpoint
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
            let answer = try Answer(ThreadID(tree), options, log)
            Output.text(options.json ? answer.json.text + "\n" : answer.text)
            return answer.refused.isEmpty ? 0 : 1
        } catch {
            return Failure(error).report(json: options.json, command: .explain, log: log)
        }
    }
}

/// The tree is asked again with the options that it was found to need, until no more come up.
private struct Answer {
    /// What an option answers, in the order it was found.
    private var needs: [Need] = []
    private typealias Need = (option: String, refusal: CheckpointError)
    private let explanation: Explanation
    var refused: [CheckpointError] { explanation.refusals }

    init(_ root: ThreadID, _ options: Options, _ log: Log) throws {
        var settings = DumpSettings(options), unusable = Set<String>(), needs = [Need]()
        while true {
            let found = try Explanation(of: root, settings, log)
            let fresh = found.refusals.compactMap { error in error.option.map { (option: $0, refusal: error) } }
                .filter { need in !unusable.contains(need.option) && !needs.contains { $0.option == need.option && "\($0.refusal)" == "\(need.refusal)" } }
            if fresh.isEmpty {
                (explanation, self.needs) = (found, needs)
                return
            }
            needs += fresh
            do throws(OptionError) {
                settings = DumpSettings(try Self.parse(["dump", "-t", "\(root)"] + Self.words(needs.map(\.option)), options))
            } catch {
                // An option of a feature that is not there yet answers nothing.
                unusable.formUnion(fresh.map(\.option))
                needs.removeLast(fresh.count)
            }
        }
    }

    private static func parse(_ words: [String], _ given: Options) throws(OptionError) -> Options {
        guard case .run(let options) = try Invocation(arguments: words, environment: [:], readFile: { _ in nil }) else { return given }
        return options
    }

    /// Each option once; of sizes the largest.
    private static func words(_ options: [String]) -> [String] {
        var found = [String]()
        var limit: UInt64 = 0
        for option in options {
            if option.hasPrefix("--ghost-limit ") { limit = max(limit, UInt64(option.dropFirst(14)) ?? 0) }
            else if !found.contains(option) { found.append(option) }
        }
        if limit > 0 { found.append("--ghost-limit \(limit)") }
        return found.flatMap { $0.split(separator: " ", maxSplits: 1).map(String.init) }
    }

    private var dumpWords: [String] { ["stasis", "dump", "-t", "\(explanation.root)", "-D", "DIR"] + Self.words(needs.map(\.option)) }
    private var restoreWords: [String] {
        let options = needs.map(\.option).filter { option in
            let name = option.dropFirst(2).prefix { $0 != " " }
            return OptionTable.row(named: String(name))?.commands.contains(.restore) == true
        }
        return ["stasis", "restore", "-D", "DIR"] + Self.words(options)
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
        for (option, refusal) in needs { lines.append("needs   \(option): \(refusal.subject): \(refusal.cause)") }
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
            .init("needs", .array(needs.map { .object([.init("option", .string($0.option)), .init("object", .string("\($0.refusal.subject)")), .init("cause", .string($0.refusal.cause))]) })),
            .init("refused", .array(refused.map { Verdict($0, about: "").json })),
            .init("dump", refused.isEmpty ? .array(dumpWords.map(JSON.string)) : .null),
            .init("restore", refused.isEmpty ? .array(restoreWords.map(JSON.string)) : .null),
        ])
    }
}
