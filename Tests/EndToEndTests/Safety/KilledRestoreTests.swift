import Foundation
import Testing

/// SIGKILL of `stasis restore` at random moments: nothing of a half-made tree may be left.
extension EndToEnd {
    @Suite("a killed restore", .serialized) struct KilledRestore {
        @Test("leaves nothing behind", arguments: ["tree-20", "threads"]) func leavesNothing(program: String) throws {
            let run = try Run(program)
            run.reporting(again: "swift test --filter KilledRestore", as: "killed-restore-\(program)") { run in
                try run.start(["--detached", program])
                try run.awaitReady()
                try run.dumpAndKill()
                var random = SplitMix(seed: KilledDump.seed + 7)
                let begin = Date()
                try run.restore()
                let duration = Date().timeIntervalSince(begin)
                try run.dumpAndKill()
                let kills = Int(ProcessInfo.processInfo.environment["STASIS_RESTORE_KILLS"] ?? "") ?? 100
                for trial in 0..<kills / 2 {
                    let delay = duration * Double(random.next(below: 1000)) / 1000
                    let result = try run.restoreCommand().run(within: 30, killAfter: delay)
                    if result.signal == 0 {  // it was through before the kill
                        guard result.succeeded else { throw Failure("trial \(trial): \(result)") }
                        try run.dumpAndKill()
                        continue
                    }
                    let left = { Task.all.filter { $0.environment.contains("WORKLOAD_READY=\(run.scratch)/") || $0.session == run.root } }
                    if eventually(within: 2, { left().isEmpty }) { continue }
                    guard Self.wholeTreeRuns(run, program) else {
                        throw Failure("killed after \(Int(delay * 1e6)) µs: left over: \(left().map { "\($0.pid) \($0.state) \($0.commandLine)" })")
                    }
                    try run.dumpAndKill()  // the kill came after the last task was let go
                }
                try run.restore()
                try run.checkItself()
            }
        }

        /// The commit of a restore is the moment when all tasks run: all there and none traced.
        private static func wholeTreeRuns(_ run: Run, _ program: String) -> Bool {
            let expected = program == "tree-20" ? 20 : 1
            let tasks = run.tasks().filter { $0.commandLine.contains(program) }
            return tasks.count == expected && tasks.allSatisfy { $0.status("TracerPid") == "0" && !"tTZ".contains($0.state) }
        }
    }
}
