import Kinds
import Linux

/// One answer of a check: how one object stands, in the words that the dump or restore itself would have for it.
package struct Verdict: Equatable, Sendable {
    package enum Grade: String, Sendable { case ok, warning, fails }
    package let grade: Grade
    package let object: String
    /// What was found; of a failure: the cause.
    package let text: String
    package let remedy: String?
    /// The option with which it would work.
    package let option: String?
    package let errno: Int32?
    /// The sentence: of a failure the error that the real thing would end with.
    package let message: String

    /// As another machine has found it.
    package init(_ grade: Grade, object: String, text: String, remedy: String?, option: String?, errno: Int32?, message: String) {
        (self.grade, self.object, self.text, self.remedy, self.option, self.errno, self.message) = (grade, object, text, remedy, option, errno, message)
    }
    package init(ok object: String, _ text: String) {
        (grade, self.object, self.text, message) = (.ok, object, text, "\(object): \(text)")
        (remedy, option, errno) = (nil, nil, nil)
    }
    package init(warning object: String, _ text: String, remedy: String? = nil) {
        (grade, self.object, self.text, message) = (.warning, object, text, "\(object): \(text)")
        (self.remedy, option, errno) = (remedy, nil, nil)
    }
    package init(_ error: any Error, about object: String) {
        grade = .fails
        guard let error = error as? CheckpointError else {
            (self.object, text, message) = (object, "\(error)", "\(error)")
            (remedy, option, errno) = (nil, nil, nil)
            return
        }
        (self.object, text, message) = ("\(error.subject)", error.cause, "cannot \(error.action) \(error.subject): \(error.cause)")
        (remedy, option, errno) = (error.remedy, error.option, error.errno?.rawValue)
    }

    package var json: JSON {
        .object([
            .init("verdict", .string(grade.rawValue)), .init("object", .string(object)), .init("text", .string(text)),
            .init("remedy", remedy.map(JSON.string) ?? .null), .init("option", option.map(JSON.string) ?? .null),
            .init("errno", errno.map { .number($0) } ?? .null), .init("message", .string(message)),
        ])
    }
}

/// What a check has found: a value, to be printed, sent as JSON or carried by an RPC.
package struct CheckReport: Equatable, Sendable {
    package let command: String
    package internal(set) var verdicts: [Verdict] = []
    package init(_ command: String, _ verdicts: [Verdict] = []) { (self.command, self.verdicts) = (command, verdicts) }

    package var passes: Bool { !verdicts.contains { $0.grade == .fails } }
    private func count(_ grade: Verdict.Grade) -> Int { verdicts.count { $0.grade == grade } }

    /// "3 fail, 1 warning, 40 ok".
    package var summary: String {
        let warnings = count(.warning)
        return "\(count(.fails)) fail, \(warnings) warning\(warnings == 1 ? "" : "s"), \(count(.ok)) ok"
    }

    /// One verdict a line, failures first; what is well only when `all`.
    package func text(all: Bool) -> String {
        var lines = [String]()
        for grade in [Verdict.Grade.fails, .warning] + (all ? [.ok] : []) {
            for verdict in verdicts where verdict.grade == grade {
                let head = grade.rawValue + String(repeating: " ", count: 8 - grade.rawValue.utf8.count)
                lines.append(head + verdict.message)
                if let remedy = verdict.remedy { lines.append("          try: " + remedy) }
            }
        }
        lines.append(summary)
        return lines.joined(separator: "\n")
    }

    package var json: JSON {
        .object([
            .init("command", .string(command)), .init("check_only", .bool(true)), .init("ok", .bool(passes)),
            .init("fails", .number(count(.fails))), .init("warnings", .number(count(.warning))), .init("verdicts", .array(verdicts.map(\.json))),
        ])
    }
}
