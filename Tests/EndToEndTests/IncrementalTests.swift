import Foundation
import Testing

extension EndToEnd {
    /// Dumps that build on one another, of programs that change their memory all the time.
    @Suite("incremental dumps", .serialized) struct Incremental {
        private func run(_ workload: String, _ mode: String, _ body: @escaping (Run) throws -> Void) throws {
            let run = try Run(workload)
            run.reporting(again: "Tests/run-workload \(workload) \(mode)", as: "\(workload)-\(mode)") { run in
                try run.start(["--detached", workload])
                try run.awaitReady()
                try body(run)
                try run.checkItself()
            }
        }

        @Test("no write between pre-dumps is lost", arguments: ["memory-writer", "memory-private", "memory-files"])
        func preDumps(workload: String) throws {
            try run(workload, "incremental") { run in
                try run.preDump()
                try run.preDump(["--pre-dump-mode=read"])
                try run.preDump()
                try run.dumpAndKill(run.onPrevious)
                try run.restore()
            }
        }

        @Test("a dump on a dump saves what changed, whether parents are freed of it or not", arguments: [[], ["--auto-dedup"]])
        func snapshots(more: [String]) throws {
            try run("memory-writer", "snapshots") { run in
                try run.dump(["-R", "--track-mem"])
                try run.dump(["-R", "--track-mem"] + more + run.onPrevious)
                try run.dumpAndKill(run.onPrevious)
                try run.restore()
            }
        }

        @Test("a dump on another directory than the last one saves every page") func otherParent() throws {
            try run("memory-writer", "incremental") { run in
                try run.preDump()
                try run.preDump()
                try run.dumpAndKill(["--prev-images-dir", "../1"])
                try run.restore()
            }
        }
    }
}

extension Run {
    /// The options that make the last directory the parent of the next.
    var onPrevious: [String] { step > 0 ? ["--prev-images-dir", "../\(step)"] : [] }

    func preDump(_ more: [String] = []) throws { try dump(onPrevious + more, command: "pre-dump") }
}
