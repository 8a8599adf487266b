import Foundation
import Images
import Testing

extension EndToEnd {
    /// dump --snapshot: the program runs on while its memory is written, and what is written is what it was.
    @Suite("snapshots", .serialized) struct Snapshots {
        static let programs = [
            "memory-writer", "memory-private", "memory-files", "memory-shared", "memory-hugetlb", "memory-advice", "cow", "tree", "threads", "busy-fp", "pipes", "unix-rights", "tcp-streams",
        ]

        @Test("are what the program was when it stood", arguments: programs, [[], ["--compress", "lz4"]])
        func wholePrograms(program: String, options: [String]) throws {
            if !options.isEmpty, program != "memory-writer", program != "memory-advice" { return }
            let run = try Run(program), workload = Workload.all.first { $0.name == program }
            (run.dumpOptions, run.restoreOptions) = (workload?.dumpOptions ?? [], workload?.restoreOptions ?? [])
            run.reporting(again: "Tests/run-workload \(program) snapshot", as: "\(program)-snapshot") { run in
                try run.start(["--detached", program])
                try run.awaitReady()
                try run.dump(["--snapshot"] + options)
                let before = run.tasks().count
                try run.dump(["--snapshot"] + options)
                guard eventually(within: 2, { run.tasks().count == before }) else { throw Failure("copies are left: \(run.tasks().map(\.pid))") }
                run.killAll()
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("the program itself goes on, and has no child that it did not make") func goesOn() throws {
            let run = try Run("memory-private")
            run.reporting(again: "Tests/run-workload memory-private snapshot", as: "snapshot-goes-on") { run in
                try run.start(["--detached", "memory-private"])
                try run.awaitReady()
                for _ in 0..<5 { try run.dump(["--snapshot"]) }
                let children = String.contents(of: "/proc/\(run.root)/task/\(run.root)/children") ?? ""
                guard children.isEmpty else { throw Failure("it has children: \(children)") }
                try run.checkItself()
            }
        }

        @Test("a snapshot whose conductor is killed leaves no copy, and the program unharmed") func killed() throws {
            let run = try Run("memory-writer")
            run.reporting(again: "swift test --filter Snapshots", as: "snapshot-killed") { run in
                try run.start(["--detached", "memory-writer", "20000"])
                try run.awaitReady()
                var random = SplitMix(seed: 5)
                for _ in 0..<20 {
                    _ = try run.dumpCommand(["--snapshot"]).run(within: 30, killAfter: Double(random.next(below: 300)) / 1000)
                    try? FileManager.default.removeItem(atPath: run.images)
                    guard eventually(within: 2, { run.tasks().count == 1 && Task(run.root)?.status("TracerPid") == "0" }) else {
                        throw Failure("after a kill there are \(run.tasks().map { "\($0.pid) \($0.state)" })")
                    }
                }
                try run.dump(["--snapshot"])
                run.killAll()
                try run.restore()
                try run.checkItself()
            }
        }
    }
}
