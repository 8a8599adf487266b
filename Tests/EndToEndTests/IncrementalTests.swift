import Foundation
import Testing

extension EndToEnd {
    /// Dumps that build on one another, of programs that change their memory all the time.
    @Suite("incremental dumps", .serialized) struct Incremental {
        private func run(_ workload: String, _ mode: String, _ body: @escaping (Run) throws -> Void) throws {
            try Run.live(workload, again: "Tests/run-workload \(workload) \(mode)", as: "\(workload)-\(mode)") { run in
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

        /// Who holds the trackers may die at any time: whatever is not known for certain is saved again. STASIS_SEED tries other moments.
        @Test("nothing is ever wrong when the keeper of memory trackers is killed", arguments: 0..<4) func keeper(part: UInt64) throws {
            let seed = KilledDump.seed
            var random = SplitMix(seed: seed &* 4 &+ part &+ 1)
            try run("memory-writer", "keeper-\(seed)-\(part)") { run in
                let root = run.root
                for _ in 0..<5 {
                    switch random.next() % 3 {
                    case 0: killKeeper(of: root)
                    case 1:
                        let delay = useconds_t(random.next() % 60_000), done = DispatchGroup()
                        DispatchQueue.global().async(group: done) {
                            usleep(delay)
                            killKeeper(of: root)
                        }
                        defer { done.wait() }
                        try run.preDump()
                        continue
                    default: break
                    }
                    try run.preDump()
                }
                if random.next() % 2 == 0 { killKeeper(of: root) }
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

/// The keeper of this tree alone: it holds a pidfd of the root (proc_pid_fdinfo(5), pidfd_open(2)).
private func killKeeper(of root: pid_t) {
    for task in Task.all where task.commandLine.contains("keep-trackers") {
        let folder = "/proc/\(task.pid)/fdinfo"
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        if names.contains(where: { (String.contents(of: "\(folder)/\($0)") ?? "").contains("Pid:\t\(root)\n") }) { kill(task.pid, SIGKILL) }
    }
}

extension Run {
    /// The options that make the last directory the parent of the next.
    var onPrevious: [String] { step > 0 ? ["--prev-images-dir", "../\(step)"] : [] }

    func preDump(_ more: [String] = []) throws { try dump(onPrevious + more, command: "pre-dump") }
}
