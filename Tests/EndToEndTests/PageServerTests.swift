import Foundation
import Synchronization
import Testing

extension EndToEnd {
    /// Pages that go to, and come from, another process.
    @Suite("page server and lazy pages", .serialized) struct PagesElsewhere {
        private func run(_ workload: String, _ body: @escaping (Run) throws -> Void) throws {
            try Run.live(workload, again: "swift test --filter PagesElsewhere", as: "\(workload)-elsewhere") { run in
                try body(run)
                try run.checkItself()
            }
        }

        @Test("pre-dumps and a dump through a page server", arguments: [([], "pages-"), (["--compress", "zstd"], "compressed-"), (["--direct-io"], "pages-")] as [([String], String)])
        func pageServer(options: [String], name: String) throws {
            try run("memory-writer") { run in
                for last in [false, false, true] {
                    let before = run.onPrevious
                    let port = try run.startServer(["page-server", "--port", "0"] + options, next: true)
                    defer { #expect(exists(run.images + "/\(name)65537.img")) }
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

        @Test("a server whose disk is full says so, and the tree goes on") func fullDisk() throws {
            try run("memory-writer") { run in
                let folder = run.scratch + "/small"
                try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
                // In a mount namespace of its own, which goes with the server.
                let server = ["-m", "/bin/sh", "-c", "mount -t tmpfs -o size=1m none \"$1\" && shift && exec \"$@\"", "sh", folder]
                    + [Binaries.stasis, "page-server", "-d", "-D", folder, "-o", run.scratch + "/server.log", "--port", "0", "-v4"]
                let started = try Command("/usr/bin/unshare", server, in: run.folder).run(within: 60)
                guard started.succeeded, let port = started.output.trimmed.split(separator: " ").last else { throw Failure("\(started)") }
                let result = try run.dumpCommand(["--page-server", "--address", "127.0.0.1", "--port", String(port)]).run(within: 60)
                #expect(!result.succeeded && result.output.contains("page server"), "\(result)")
                let log = { String.contents(of: run.scratch + "/server.log") ?? "" }
                #expect(eventually(within: 5) { log().contains("No space left on device") }, "\(log())")
                #expect(!exists(run.images + "/inventory.img"))
            }
        }

        @Test("a second client of a page server is turned away, and its tree goes on") func duplicate() throws {
            try run("memory-writer") { run in
                let port = try run.startServer(["page-server", "--port", "0"], next: true)
                let dump = try run.dumpCommand(["--page-server", "--address", "127.0.0.1", "--port", port])
                // bash(1) is the first client, for as long as the dump takes.
                let words = ["-c", "exec 3<>/dev/tcp/127.0.0.1/\(port); \"$@\" 3>&-", "bash", dump.program] + dump.arguments
                let result = try Command("/bin/bash", words, in: run.folder).run(within: 60)
                #expect(!result.succeeded && result.output.contains("page server"), "\(result)")
                #expect(Task(run.root).map { !"Tt".contains($0.state) } == true && !exists(run.images + "/inventory.img"))
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

        @Test("who looks at a process while it is restored, as ps does, leaves no zeros where its memory is to come", arguments: [["--lazy-pages"], ["--background-load"]])
        func watched(options: [String]) throws {
            try run("memory-writer") { run in
                try run.dumpAndKill()
                if options == ["--lazy-pages"] { _ = try run.startServer(["lazy-pages"], next: false) }
                let path = "/proc/\(run.root)/cmdline", isOver = Mutex(false), looks = Mutex(0)
                let watcher = Thread {
                    while !isOver.withLock({ $0 }) {
                        if let words = FileManager.default.contents(atPath: path), !words.isEmpty { looks.withLock { $0 += 1 } }
                    }
                }
                watcher.start()
                defer { isOver.withLock { $0 = true } }
                try run.restore(options)
                #expect(looks.withLock { $0 } > 0, "nobody has looked")
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
