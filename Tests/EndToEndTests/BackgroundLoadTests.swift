import Foundation
import Testing

extension EndToEnd {
    /// restore --background-load: the program runs while its memory arrives.
    @Suite("restores with memory behind", .serialized) struct BackgroundLoad {
        private func run(_ workload: String, _ arguments: [String] = [], _ body: @escaping (Run) throws -> Void) throws {
            try Run.live(workload, arguments, again: "Tests/run-workload \(workload) background-load", as: "\(workload)-background-load") { run in
                try body(run)
            }
        }

        @Test("every page arrives; the second time what was touched first comes first", arguments: ["memory-writer", "memory-private", "memory-files", "cow", "threads", "tree"])
        func wholePrograms(workload: String) throws {
            try run(workload) { run in
                try run.dumpAndKill()
                for _ in 0..<2 {
                    try run.restore(["--background-load"])
                    guard run.awaitLoaded() else { throw Failure("the loader does not end: \(run.loaderLog)") }
                    if run.hasWorkingSet { break }
                    run.killAll()
                }
                guard run.hasWorkingSet else { throw Failure("no working set was written: \(run.loaderLog)") }
                run.killAll()
                try run.restore(["--background-load"])
                _ = run.awaitLoaded()
                try run.dumpAndKill()
                try run.restore(["--background-load"])
                try run.checkItself()
            }
        }

        @Test("a dump of memory that is not loaded yet is refused, and harms nobody") func dumpWhileLoading() throws {
            try run("memory-writer", ["8000"]) { run in
                try run.dumpAndKill()
                try run.restore(["--background-load"])
                let early = try run.dumpCommand().run(within: 60)
                if !early.succeeded, !"\(early)".contains("wait until the memory is loaded") { throw Failure("\(early)") }
                if early.succeeded { try run.restore() }
                try run.checkItself(within: 60)
            }
        }

        @Test("a loader that is killed takes the program with it: it would read zeros", arguments: 0..<4) func killed(round: Int) throws {
            try run("memory-writer", ["8000"]) { run in
                try run.dumpAndKill()
                try run.restore(["--background-load"])
                usleep(UInt32(round) * 5000)
                let loaders = Task.all.filter { String.contents(of: "/proc/\($0.pid)/comm")?.trimmed == "stasis-loader" }
                for loader in loaders { kill(loader.pid, SIGKILL) }
                if run.loaderLog.contains("pages given") { return try run.checkItself(within: 60) }
                guard !loaders.isEmpty, eventually(within: 5, { run.tasks().allSatisfy { $0.state == "Z" } }) else { throw Failure("it lives with what it has: \(run.loaderLog)") }
            }
        }

        @Test("a page that was damaged ends the program, and the log names it") func damaged() throws {
            try run("memory-private") { run in
                try run.dumpAndKill()
                for number in 1...2 {
                    let path = run.images + "/pages-\(number).img"
                    var pages = try Data(contentsOf: URL(fileURLWithPath: path))
                    for at in stride(from: 0, to: pages.count, by: 4096) { pages[at] ^= 1 }
                    try pages.write(to: URL(fileURLWithPath: path))
                }
                let result = try run.restoreCommand(["--background-load"]).run(within: 60)
                guard eventually(within: 5, { run.tasks().isEmpty }) else { throw Failure("it lives") }
                guard ("\(result)" + run.loaderLog).contains("is not as it was dumped") else { throw Failure("nothing is said of the damage: \(result), \(run.loaderLog)") }
            }
        }
    }
}

extension Run {
    fileprivate var loaderLog: String { String.contents(of: images + "/background-load.log") ?? "" }
    fileprivate var hasWorkingSet: Bool {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: images)) ?? []
        return names.contains { $0.hasPrefix("working-set-") }
    }
    fileprivate func awaitLoaded() -> Bool { eventually(within: 20) { loaderLog.contains("pages given") } }
}
