import Foundation
import Testing

extension EndToEnd {
    /// Pages that go to, and come from, another process.
    @Suite("page server and lazy pages", .serialized) struct PagesElsewhere {
        private func run(_ workload: String, _ body: @escaping (Run) throws -> Void) throws {
            let run = try Run(workload)
            run.reporting(again: "swift test --filter PagesElsewhere", as: "\(workload)-elsewhere") { run in
                try run.start(["--detached", workload])
                try run.awaitReady()
                try body(run)
                try run.checkItself()
            }
        }

        @Test("pre-dumps and a dump through a page server") func pageServer() throws {
            try run("memory-writer") { run in
                for last in [false, false, true] {
                    let before = run.onPrevious
                    let port = try run.startServer(["page-server", "--port", "0"], next: true)
                    try run.dump(before + ["--page-server", "--address", "127.0.0.1", "--port", port], command: last ? "dump" : "pre-dump")
                }
                try run.restore()
            }
        }

        @Test("a dump whose server goes away leaves the tree as it was, and no images") func cut() throws {
            try run("memory-writer") { run in
                let result = try run.dumpCommand(["--page-server", "--address", "127.0.0.1", "--port", "1"]).run(within: 60)
                #expect(!result.succeeded && !exists(run.images + "/inventory.img"))
            }
        }

        @Test("memory comes as it is touched", arguments: ["memory-writer", "memory-private", "tree", "threads"])
        func lazy(workload: String) throws {
            try run(workload) { run in
                try run.dumpAndKill()
                _ = try run.startServer(["lazy-pages"], next: false)
                try run.restore(["--lazy-pages"])
            }
        }

        @Test("memory comes from a page server as it is touched") func remoteLazy() throws {
            try run("memory-writer") { run in
                try run.dumpAndKill()
                let port = try run.startServer(["page-server", "--lazy-pages", "--port", "0"], next: false)
                _ = try run.startServer(["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", port], next: false)
                try run.restore(["--lazy-pages"])
            }
        }
    }
}

extension Run {
    /// Starts a server in the background. Returns the port it has said, if any.
    /// - Parameter next: whether it works in the directory of the next dump, rather than of the last.
    func startServer(_ words: [String], next: Bool) throws -> String {
        let directory = scratch + "/\(step + (next ? 1 : 0))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let command = Command(Binaries.stasis, words + ["-d", "-D", directory, "-o", words[0] + ".log", "-v4"], in: folder)
        let result = try command.run(within: 60)
        guard result.succeeded else { throw Failure("\(words): \(result)") }
        return result.output.trimmed.split(separator: " ").last.map(String.init) ?? ""
    }
}
