import Foundation
import Testing

@testable import Options

@Suite("option table") struct OptionTableTests {
    /// Tests/OptionsTests/options-of-criu.txt: name, short name, argument, negation.
    private static let expected: [[String]] = {
        let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("options-of-criu.txt")
        let text = (try? String(contentsOf: path, encoding: .utf8)) ?? ""
        return text.split(separator: "\n").filter { !$0.hasPrefix("#") }.map { $0.split(separator: " ").map(String.init) }
    }()

    @Test("has every option of CRIU, spelled and taking arguments as there") func isComplete() {
        #expect(Self.expected.count == 85)
        for line in Self.expected {
            guard let row = OptionTable.row(named: line[0]) else {
                Issue.record("--\(line[0]) is missing")
                continue
            }
            let kind =
                switch row.argument {
                case .none: "none"
                case .required: "required"
                case .optional: "optional"
                }
            #expect(kind == line[2], "--\(line[0])")
            #expect(row.hasNegation == (line[3] == "negation"), "--no-\(line[0])")
            // -d belongs to --restore-detached, the same variable in CRIU as --daemon.
            if line[0] != "daemon" { #expect(row.short.map { String($0) } ?? "-" == line[1], "--\(line[0])") }
        }
    }

    @Test("has nothing beyond CRIU's but our own") func hasNothingElse() {
        let known = Set(Self.expected.map { $0[0] }).union(OptionTable.ownNames)
        #expect(OptionTable.rows.map(\.name).filter { !known.contains($0) } == [])
        #expect(OptionTable.ownNames == ["json", "plan", "remap-address", "check-only", "digest", "compress", "direct-io", "encrypt", "decrypt", "snapshot", "background-load", "no-verify", "to", "max-downtime", "max-rounds", "when-too-busy", "listen", "stdio", "tls-psk", "insecure", "plugin-timeout", "gpu-device-map", "man", "completions"])
    }

    @Test("names are there once") func namesAreUnique() {
        let long = OptionTable.rows.flatMap { $0.hasNegation ? [$0.name, "no-" + $0.name] : [$0.name] }
        #expect(Set(long).count == long.count)
        let short = OptionTable.rows.compactMap(\.short)
        #expect(Set(short).count == short.count)
    }

    @Test("help, manual page and completions name every option") func generatedTexts() {
        for row in OptionTable.rows {
            #expect(Help.text.contains(row.usage + " ") || Help.text.contains(row.usage + "\n"), "\(row.name)")
            let roff = row.name.split(separator: "-").joined(separator: "\\-")
            #expect(ManualPage.text.contains("\\-\\-\(row.hasNegation ? "[no\\-]" : "")\(roff)\\fR"), "\(row.name)")
            #expect(Completions.text(for: .bash).contains("--\(row.name)"))
            #expect(Completions.text(for: .zsh).contains("--\(row.name)"))
            #expect(Completions.text(for: .fish).contains("-l \(row.name)"))
        }
    }

    @Test("completions are what their shells can read", arguments: [Shell.bash, .zsh, .fish]) func completionsParse(shell: Shell) throws {
        let path = "/usr/bin/\(shell.rawValue)"
        guard FileManager.default.isExecutableFile(atPath: path) else { return }
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("stasis-\(UUID()).\(shell.rawValue)")
        try Completions.text(for: shell).write(to: file, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(at: file) }
        let run = Process()
        run.executableURL = URL(fileURLWithPath: path)
        run.arguments = ["-n", file.path]
        try run.run()
        run.waitUntilExit()
        #expect(run.terminationStatus == 0)
    }
}
