import Foundation
import Testing

extension EndToEnd {
    /// Images that changed since their dump.
    @Suite("checksums", .serialized) struct Verify {
        private func run(_ workload: String, _ body: @escaping (Run) throws -> Void) throws {
            try Run.live(workload, again: "swift test --filter EndToEnd.Verify", as: "\(workload)-verify") { run in
                try body(run)
            }
        }

        @Test("a flipped byte of a page is found by verify, and refused by restore, by page, task and mapping", arguments: ["memory-private", "memory-shared", "tree"])
        func flipped(workload: String) throws {
            try run(workload) { run in
                try run.dumpAndKill()
                try run.verify()
                for name in try run.pages().prefix(2) {
                    let place = Int.random(in: 0..<(run.size(name) * 3 / 4))  // behind that is the vDSO, which is the kernel's
                    try run.flip(name, at: place)
                    for result in try [run.verifyCommand().run(within: 60), run.restoreCommand().run(within: 60)] {
                        let isNamed = result.output.contains("\(name): the page at 0x") && result.output.contains("is not as it was dumped")
                            && (result.output.contains("in mapping ") || result.output.contains("of shared memory"))
                        guard !result.succeeded, isNamed else { throw Failure("\(name), byte \(place) flipped: \(result)") }
                    }
                    guard eventually(within: 2, { run.tasks().isEmpty }) else { throw Failure("left by a restore that was refused: \(run.tasks().map(\.commandLine))") }
                    try run.flip(name, at: place)
                }
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("pre-dumps, dedup and a dump on them stay true; a page that a restore has freed is missed by name") func chain() throws {
            try run("memory-writer") { run in
                try run.preDump()
                try run.preDump()
                try run.verify()
                try run.dumpAndKill(run.onPrevious + ["--auto-dedup"])
                try run.verify()
                let freed = try Command(Binaries.stasis, ["dedup", "-D", run.images], in: run.folder).run(within: 60)
                guard freed.succeeded else { throw Failure("dedup: \(freed)") }
                try run.verify()
                try run.restore(["--auto-dedup"])
                let result = try run.verifyCommand().run(within: 60)
                guard !result.succeeded, result.output.contains("is gone: it was freed") else { throw Failure("verify after --auto-dedup: \(result)") }
                try run.checkItself()
            }
        }

        @Test("pages of a page server have checksums") func pageServer() throws {
            try run("memory-writer") { run in
                let port = try run.startServer(["page-server", "--port", "0"], next: true)
                try run.dumpAndKill(["--page-server", "--address", "127.0.0.1", "--port", port])
                try run.verify()
                let pages = try run.pages()[0]
                try run.flip(pages, at: 9000)
                guard try !run.verifyCommand().run(within: 60).succeeded, try !run.restoreCommand().run(within: 60).succeeded else { throw Failure("a flipped byte is not found") }
                try run.flip(pages, at: 9000)
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("lazy pages that changed end the tasks, and are named") func lazy() throws {
            try run("memory-writer") { run in
                try run.dumpAndKill()
                for pages in try run.pages() { try run.flip(pages, at: run.size(pages) / 2) }
                _ = try run.startServer(["lazy-pages"], next: false)
                _ = try run.restoreCommand(["--lazy-pages"]).run(within: 60)
                guard eventually(within: 10, { run.tasks().isEmpty }) else { throw Failure("tasks run on with a page that changed") }
                // The daemon says so when it has ended them.
                let log = { (String.contents(of: run.images + "/lazy-pages.log") ?? "") + (String.contents(of: run.images + "/restore.log") ?? "") }
                guard eventually(within: 5, { log().contains("is not as it was dumped") }) else { throw Failure(log()) }
            }
        }
    }
}

extension Run {
    func verifyCommand(_ more: [String] = []) -> Command { Command(Binaries.stasis, ["verify", images] + more, in: folder) }

    func verify(_ more: [String] = []) throws {
        let result = try verifyCommand(more).run(within: 60)
        guard result.succeeded else { throw Failure("verify \(step): \(result)") }
    }

    /// The pages images, the biggest first.
    func pages(_ kind: String = "pages-") throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: images).filter { $0.hasPrefix(kind) && size($0) > 0 }.sorted { size($0) > size($1) }
    }

    func size(_ name: String) -> Int { (try? FileManager.default.attributesOfItem(atPath: images + "/" + name)[.size] as? Int) ?? 0 }

    func flip(_ name: String, at place: Int) throws {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: images + "/" + name))
        try file.seek(toOffset: UInt64(place))
        guard let byte = try file.read(upToCount: 1)?.first else { throw Failure("\(name) has no byte \(place)") }
        try file.seek(toOffset: UInt64(place))
        try file.write(contentsOf: [byte ^ 0x20])
        try file.close()
    }
}
