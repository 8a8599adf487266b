import Foundation
import Testing

/// Where a dump can't work it says so, names the thing, and leaves target and earlier images as they are.
extension EndToEnd {
    @Suite("bad environments", .serialized) struct BadEnvironments {
        private func with(_ name: String, _ body: (Run) throws -> Void) throws {
            let run = try Run("tree-20")
            run.reporting(again: "swift test --filter BadEnvironments", as: "bad-\(name)") { run in
                try run.start(["--detached", "tree-20"])
                try run.awaitReady()
                try body(run)
                guard let root = Task(run.root), root.status("TracerPid") == "0", !"Tt".contains(root.state) else {
                    throw Failure("the target is harmed: \(Task(run.root)?.state ?? "gone")")
                }
                try run.checkItself()
            }
        }

        private func dump(_ run: Run, pid: String, into folder: String) throws -> Command.Result {
            try Command(Binaries.stasis, ["dump", "-t", pid, "-D", folder, "-v4"], in: run.folder).run(within: 20)
        }

        private func mustFail(_ result: Command.Result, naming word: String) throws {
            guard result.status != 0, result.signal == 0, !result.timedOut else { throw Failure("should fail: \(result)") }
            guard result.output.lowercased().contains(word.lowercased()) else { throw Failure("does not name '\(word)': \(result)") }
        }

        @Test("no space left for images") func noSpace() throws {
            try with("no-space") { run in
                let small = run.scratch + "/small"
                try FileManager.default.createDirectory(atPath: small, withIntermediateDirectories: true)
                guard try Command("/bin/mount", ["-t", "tmpfs", "-o", "size=64k", "stasis-test", small], in: "/").run().succeeded else {
                    throw Failure("can't mount a small tmpfs")
                }
                defer { _ = try? Command("/bin/umount", [small], in: "/").run() }
                try mustFail(try dump(run, pid: "\(run.root)", into: small), naming: "space")
                guard !exists(small + "/inventory.img") else { throw Failure("a dump without space left an inventory") }
            }
        }

        @Test("a directory that isn't there, or is a file") func noDirectory() throws {
            try with("no-directory") { run in
                try mustFail(try dump(run, pid: "\(run.root)", into: run.scratch + "/nowhere"), naming: "nowhere")
                try mustFail(try dump(run, pid: "\(run.root)", into: run.scratch + "/ready"), naming: "ready")
            }
        }

        @Test("a read-only directory") func readOnly() throws {
            try with("read-only") { run in
                let folder = run.scratch + "/frozen"
                try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
                guard try Command("/bin/mount", ["-t", "tmpfs", "-o", "ro", "stasis-test", folder], in: "/").run().succeeded else {
                    throw Failure("can't mount a read-only tmpfs")
                }
                defer { _ = try? Command("/bin/umount", [folder], in: "/").run() }
                try mustFail(try dump(run, pid: "\(run.root)", into: folder), naming: "read-only")
            }
        }

        @Test("a failing dump does not touch an earlier one in its directory") func earlierDump() throws {
            try with("earlier") { run in
                try run.dump(["-R"])
                func contents() throws -> [String: Data?] {
                    let names = try FileManager.default.contentsOfDirectory(atPath: run.images).filter { $0.hasSuffix(".img") }
                    return Dictionary(uniqueKeysWithValues: names.map { ($0, FileManager.default.contents(atPath: run.images + "/" + $0)) })
                }
                let before = try contents()
                try mustFail(try dump(run, pid: "2", into: run.images), naming: run.images)
                for _ in 0..<5 { _ = try run.killedDumpIntoSameDirectory() }
                guard try contents() == before else { throw Failure("earlier images have changed") }
            }
        }

        @Test("no such task, kernel thread, init, itself's ancestor") func wrongTasks() throws {
            try with("wrong-tasks") { run in
                let empty = run.scratch + "/empty"
                try FileManager.default.createDirectory(atPath: empty, withIntermediateDirectories: true)
                var gone: pid_t = 99_999
                while kill(gone, 0) == 0 { gone -= 1 }
                for pid in ["\(gone)", "2", "1", "\(getpid())"] { try mustFail(try dump(run, pid: pid, into: empty), naming: pid) }
                for pid in ["0", "-1", "12x", ""] {
                    let result = try dump(run, pid: pid, into: empty)
                    guard result.status != 0, result.signal == 0 else { throw Failure("-t '\(pid)' is taken: \(result)") }
                }
                guard try FileManager.default.contentsOfDirectory(atPath: empty).filter({ $0.hasSuffix(".img") }).isEmpty else {
                    throw Failure("a refused dump left images")
                }
            }
        }

        @Test("a task that somebody else traces") func traced() throws {
            let run = try Run("traced")
            run.reporting(again: "swift test --filter BadEnvironments", as: "bad-traced") { run in
                try run.start(["--detached", "traced"])
                try run.awaitReady()
                let images = run.scratch + "/images"
                try FileManager.default.createDirectory(atPath: images, withIntermediateDirectories: true)
                try mustFail(try dump(run, pid: "\(run.root)", into: images), naming: "trace")
                try run.checkItself()
            }
        }
    }
}

extension Run {
    /// A dump into the directory of the last one, killed early.
    func killedDumpIntoSameDirectory() throws -> Command.Result {
        try Command(Binaries.stasis, ["dump", "-R", "-t", "\(root)", "-D", images], in: folder).run(within: 20, killAfter: 0.015)
    }
}
