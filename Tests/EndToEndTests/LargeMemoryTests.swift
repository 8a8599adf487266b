import Foundation
import Testing

extension EndToEnd {
    /// So much memory that two write it and two fill it, each in the way that its filesystem allows: 64 MiB, all written, in mappings of 64 KiB and
    /// in few large ones.
    @Suite("large memory", .serialized) struct LargeMemory {
        /// The first images of the run are in a tmpfs of `size`.
        private func run(_ workload: String, tmpfs size: String, _ body: @escaping (Run) throws -> Void) throws {
            try Run.live(workload, workload == "memory-writer" ? ["16384"] : [], again: "swift test --filter EndToEnd.LargeMemory", as: "\(workload)-large") { run in
                let images = run.scratch + "/1"
                try FileManager.default.createDirectory(atPath: images, withIntermediateDirectories: true)
                let mounted = try Command("/bin/mount", ["-t", "tmpfs", "-o", "size=\(size)", "none", images], in: run.folder).run()
                guard mounted.succeeded else { throw Failure("\(mounted)") }
                defer { _ = try? Command("/bin/umount", ["-l", images], in: run.scratch).run() }
                try body(run)
            }
        }
        private func log(_ run: Run, _ name: String, says words: String) throws {
            guard String.contents(of: run.images + "/" + name)?.contains(words) == true else { throw Failure("\(name) does not say '\(words)'") }
        }

        @Test("is written by the task and beside it, and filled in", arguments: ["memory-writer", "memory-large"]) func tmpfs(workload: String) throws {
            try run(workload, tmpfs: "200m") { run in
                try run.dumpAndKill()
                try self.log(run, "dump.log", says: "bytes of pages were written beside the task")
                try run.verify()
                try run.restore()
                if workload == "memory-large" { try self.log(run, "restore.log", says: "bytes of pages were filled in from") }
                // From here on to a disk.
                try run.dumpAndKill(["--compress", "lz4"])
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("that changed in its images is refused by page, task and mapping") func damaged() throws {
            try run("memory-large", tmpfs: "200m") { run in
                try run.dumpAndKill()
                let pages = try run.pages()[0]
                for place in [1 << 16, run.size(pages) / 2, run.size(pages) - (1 << 20)] {
                    try run.flip(pages, at: place)
                    let result = try run.restoreCommand().run(within: 60)
                    guard !result.succeeded, result.output.contains("\(pages): the page at 0x"), result.output.contains("is not as it was dumped"), result.output.contains("in mapping ") else {
                        throw Failure("byte \(place) flipped: \(result)")
                    }
                    guard eventually(within: 2, { run.tasks().isEmpty }) else { throw Failure("left by a restore that was refused: \(run.tasks().map(\.commandLine))") }
                    try run.flip(pages, at: place)
                }
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("a tmpfs that is too small is said, and the task goes on") func full() throws {
            try run("memory-large", tmpfs: "40m") { run in
                let result = try run.dumpCommand().run(within: 60)
                guard !result.succeeded, result.output.contains("cannot write image pages-"), result.output.contains("ENOSPC") else { throw Failure("\(result)") }
                guard try FileManager.default.contentsOfDirectory(atPath: run.images).allSatisfy({ !$0.hasSuffix(".img") }) else { throw Failure("images are left") }
                try run.dumpAndKill()
                try run.restore()
                try run.checkItself()
            }
        }
    }
}
