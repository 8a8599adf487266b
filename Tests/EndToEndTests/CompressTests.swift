import Foundation
import Testing

extension EndToEnd {
    /// dump --compress: everything reads such images without being told.
    @Suite("compressed images", .serialized) struct Compress {
        private func run(_ workload: String, _ body: @escaping (Run) throws -> Void) throws {
            try Run.live(workload, again: "swift test --filter EndToEnd.Compress", as: "\(workload)-compress") { run in
                try body(run)
            }
        }

        @Test("are restored as what they were", arguments: ["memory-private", "memory-shared", "memory-files", "cow"], ["zstd:3", "lz4"])
        func restored(workload: String, method: String) throws {
            try run(workload) { run in
                try run.dumpAndKill(["--compress", method])
                guard try run.pages().isEmpty, try !run.pages("compressed-").isEmpty else { throw Failure("pages are not compressed") }
                try run.verify()
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("may be mixed with others in a chain, deduplicated and verified") func chain() throws {
            try run("memory-writer") { run in
                try run.preDump(["--compress", "zstd"])
                try run.preDump()
                try run.preDump(["--compress", "lz4"])
                try run.dumpAndKill(run.onPrevious + ["--compress", "zstd:-1", "--auto-dedup"])
                try run.verify()
                let freed = try Command(Binaries.stasis, ["dedup", "-D", run.images], in: run.folder).run(within: 60)
                guard freed.succeeded else { throw Failure("dedup: \(freed)") }
                try run.verify()
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("give lazy pages, here and from a page server", arguments: [false, true]) func lazy(remote: Bool) throws {
            try run("memory-writer") { run in
                try run.dumpAndKill(["--compress", "lz4"])
                var words = ["lazy-pages"]
                if remote { words += ["--page-server", "--address", "127.0.0.1", "--port", try run.startServer(["page-server", "--lazy-pages", "--port", "0"], next: false)] }
                _ = try run.startServer(words, next: false)
                try run.restore(["--lazy-pages"])
                try run.checkItself()
            }
        }

        @Test("with a flipped byte are refused by name") func flipped() throws {
            try run("memory-private") { run in
                try run.dumpAndKill(["--compress", "zstd"])
                let pages = try run.pages("compressed-")[0], place = run.size(pages) / 2
                try run.flip(pages, at: place)
                for result in try [run.verifyCommand().run(within: 60), run.restoreCommand().run(within: 60)] {
                    guard !result.succeeded, result.output.contains(pages), result.output.contains("not as it was dumped") else { throw Failure("\(result)") }
                }
                guard eventually(within: 2, { run.tasks().isEmpty }) else { throw Failure("left by a restore that was refused: \(run.tasks().map(\.commandLine))") }
                try run.flip(pages, at: place)
                try run.restore()
                try run.checkItself()
            }
        }
    }
}
