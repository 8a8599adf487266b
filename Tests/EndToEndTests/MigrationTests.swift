import Foundation
import Testing

extension EndToEnd {
    /// From one pid namespace to another: ids are free there, and whoever runs there is told from who runs here.
    @Suite("migration", .serialized) struct Migration {
        /// - Parameter tls: what the destination is given to listen with on a TCP port.
        private func run(
            _ workload: String, _ arguments: [String] = [], there lines: String = "", tls: [String]? = nil, _ body: @escaping (Run, Destination) throws -> Void
        ) throws {
            let run = try Run(workload)
            run.reporting(again: "swift test --filter EndToEnd.Migration", as: "\(workload)-migration") { run in
                try run.start(["--detached", workload] + arguments)
                try run.awaitReady()
                let destination = try Destination(run, lines, tls: tls)
                defer { destination.end() }
                try body(run, destination)
            }
        }

        @Test("moves a tree that writes all the time, and loses no byte", arguments: ["memory-writer", "tree", "threads"])
        func moves(workload: String) throws {
            try run(workload) { run, destination in
                let result = try destination.migrate(["--json"] + (workload == "tree" ? [] : Destination.quick))
                guard result.succeeded else { throw Failure("migrate: \(result)\n\(destination.log)") }
                #expect(result.output.contains("\"command\":\"migrate\",\"ok\":true") && result.output.contains("\"downtime\":"))
                try destination.expectCopies(here: false, there: true)
                try destination.checkItself()
            }
        }

        @Test("memory that follows a tree which runs there already is all there in the end") func large() throws {
            try run("memory-writer", ["4608"]) { run, destination in
                let result = try destination.migrate(["--max-downtime", "1000"] + Destination.quick)
                guard result.succeeded else { throw Failure("migrate: \(result)\n\(destination.log)") }
                try destination.expectCopies(here: false, there: true)
                try destination.checkItself()
                #expect(eventually { destination.log.contains("pages given") }, "\(destination.log)")
            }
        }

        @Test("memory follows a tree that runs there already", arguments: ["memory-writer", "tree", "threads"], ["0", "1"])
        func postCopy(workload: String, rounds: String) throws {
            try run(workload, workload == "memory-writer" ? ["4608"] : []) { run, destination in
                let result = try destination.migrate(Destination.postCopy + ["--json", "--max-rounds", rounds])
                guard result.succeeded else { throw Failure("migrate: \(result)\n\(destination.log)") }
                #expect(result.output.contains("of its memory follow it") && !result.output.contains("\"later_bytes\":0,"), "\(result)")
                try destination.expectCopies(here: false, there: true)
                try destination.checkItself()
            }
        }

        @Test("a connection that is cut when memory has still to follow leaves the tree standing here, whole", arguments: ["behind running", "in place of running"])
        func cutPostCopy(moment: String) throws {
            // All of it may have followed before the cut: then the tree runs there, and another trial is needed.
            var wasWhole = true
            for _ in 0..<6 where wasWhole {
                wasWhole = false
                try run("memory-writer", ["4608"]) { run, destination in
                    let proxy = try destination.cuttingProxy(moment)
                    let result = try destination.migrate(to: "unix:\(proxy)", Destination.postCopy + ["--max-rounds", "1"])
                    wasWhole = result.output.contains("the destination says: whole")
                    #expect(result.succeeded == wasWhole && (wasWhole || result.output.contains("it was ended there, and stands still here")), "\(result)\n\(destination.log)")
                    if !wasWhole {
                        try destination.expectCopies(here: true, there: false, standing: true)
                        for task in run.tasks() { kill(task.pid, SIGCONT) }
                    }
                    try destination.expectCopies(here: !wasWhole, there: wasWhole)
                    try destination.checkItself()
                }
            }
            #expect(!wasWhole, "no cut came in time")
        }

        @Test("through ssh, whose place a script takes") func ssh() throws {
            try run("memory-writer") { run, destination in
                let result = try destination.migrate(to: "ssh://me@there:222\(Binaries.stasis)", ["--max-rounds", "0"] + Destination.quick)
                guard result.succeeded else { throw Failure("migrate: \(result)") }
                try destination.expectCopies(here: false, there: true)
                try destination.checkItself()
            }
        }

        @Test("what would fail there is said before, and the tree goes on") func refused() throws {
            // The file that it maps is not to be seen there.
            try run("memory-writer", there: "mount -t tmpfs none cwd") { _, destination in
                let result = try destination.migrate([])
                #expect(!result.succeeded && result.output.contains("No such file or directory"), "\(result)")
                try destination.expectCopies(here: true, there: false)
                try destination.checkItself()
            }
        }

        @Test("a tree that can't be moved is left alone, and so is one that is only checked") func checks() throws {
            try run("pipes") { _, destination in
                let checked = try destination.migrate(["--check-only"])
                #expect(checked.succeeded && checked.output.contains("0 fail"), "\(checked)")
                try destination.expectCopies(here: true, there: false)
                let moved = try destination.migrate([])
                #expect(moved.succeeded, "\(moved)")
                try destination.checkItself()
            }
        }

        @Test("over a network, by certificates or a key", arguments: [false, true]) func encrypted(byKey: Bool) throws {
            let certificates = try Certificates.shared.get(), tls = byKey ? certificates.key() : certificates.options() + certificates.revokedOnes
            try run("memory-writer", tls: tls) { run, destination in
                let result = try destination.migrate(["--when-too-busy", "go-on"] + Destination.quick + tls)
                guard result.succeeded else { throw Failure("migrate: \(result)\n\(destination.log)") }
                try destination.expectCopies(here: false, there: true)
                try destination.checkItself()
            }
        }

        @Test("its memory follows within TLS, too") func encryptedPostCopy() throws {
            let key = try Certificates.shared.get().key()
            try run("memory-writer", tls: key) { run, destination in
                let result = try destination.migrate(Destination.postCopy + key)
                guard result.succeeded else { throw Failure("migrate: \(result)\n\(destination.log)") }
                try destination.expectCopies(here: false, there: true)
                try destination.checkItself()
            }
        }

        @Test("a connection within TLS that is cut leaves exactly one running copy", arguments: [100, 20000, 3_000_000]) func encryptedCut(bytes: Int) throws {
            let key = try Certificates.shared.get().key()
            try run("memory-writer", tls: key) { run, destination in
                let proxy = try destination.cuttingProxy("after \(bytes) bytes")
                let result = try destination.migrate(to: "unix:\(proxy)", Destination.quick + key)
                #expect(!result.succeeded, "\(result)")
                try destination.expectCopies(here: true, there: false)
                try destination.checkItself()
            }
        }

        @Test("whoever can't prove who he is is refused by both ends in words, the tree goes on, and the destination waits for another", arguments: [false, true])
        func strangers(byKey: Bool) throws {
            let certificates = try Certificates.shared.get(), good = certificates.options() + certificates.revokedOnes, key = certificates.key()
            let cases: [(source: [String], says: String, destinationSays: String)] = byKey ? [
                (certificates.key("otherkey"), "it has another key than we", "it has another key than we"),
                (good, "it finds no common way to encrypt", "it does not use a key that both have"),
                (["--insecure"], "cannot talk to the destination", "what it says is no TLS"),
            ] : [
                (certificates.options("stranger"), "signed by nobody whom it trusts", "its certificate (stranger) was signed by nobody whom we trust"),
                (certificates.options("expired"), "it refuses our certificate, which has expired", "its certificate (expired) has expired"),
                (certificates.options("revoked"), "it refuses our certificate, which is revoked", "its certificate (revoked) is on the list of revoked ones"),
                (certificates.options(trusting: "other"), "its certificate (here) was signed by nobody whom we trust", "signed by nobody whom it trusts"),
                (key, "it does not use a key that both have", "it finds no common way to encrypt"),
                (["--insecure"], "cannot talk to the destination", "what it says is no TLS"),
                (["--tls"], "cannot encrypt connections", "listening on"),
                ([], "is plain TCP", "listening on"),
            ]
            try run("pipes", tls: byKey ? key : good) { run, destination in
                for one in cases {
                    let result = try destination.migrate(one.source)
                    guard !result.succeeded, result.output.contains(one.says), eventually(within: 5, { destination.log.contains(one.destinationSays) }) else {
                        throw Failure("\(one): \(result)\n\(destination.log)")
                    }
                }
                try destination.expectCopies(here: true, there: false)
                let result = try destination.migrate(byKey ? key : good)
                guard result.succeeded else { throw Failure("migrate: \(result)\n\(destination.log)") }
                try destination.expectCopies(here: false, there: true)
                try destination.checkItself()
            }
        }

        @Test("a destination that is another than it was called is refused", arguments: ["elsewhere", "stranger", "expired"]) func impostor(who: String) throws {
            let certificates = try Certificates.shared.get()
            try run("pipes", tls: certificates.options(who)) { run, destination in
                let result = try destination.migrate(certificates.options())
                #expect(!result.succeeded && result.output.contains("its certificate (\(who)) "), "\(result)")
                try destination.expectCopies(here: true, there: false)
                try destination.checkItself()
            }
        }

        @Test("plain TCP only where it was asked for") func insecure() throws {
            try run("pipes") { run, destination in
                let result = try destination.migrate(to: "127.0.0.1:1", [])
                #expect(!result.succeeded && result.output.contains("--insecure"), "\(result)")
            }
        }

        @Test("a connection that is cut leaves exactly one running copy", arguments: [
            "after 100 bytes", "after 20000 bytes", "after 3000000 bytes", "in place of ready", "in place of go", "in place of running",
        ]) func cut(moment: String) throws {
            try run("memory-writer") { run, destination in
                let proxy = try destination.cuttingProxy(moment)
                let result = try destination.migrate(to: "unix:\(proxy)", Destination.quick)
                let isThere = moment == "in place of running"
                #expect(result.succeeded == isThere, "\(result)")
                try destination.expectCopies(here: !isThere, there: isThere)
                try destination.checkItself()
            }
        }
    }
}

/// A `stasis receive` in a pid namespace of its own, whose first process waits for the end of the test.
private final class Destination {
    /// Without digests of programs and libraries, which take a second of a debug build; whatever else the machine does meanwhile.
    static let quick = ["--file-validation", "filesize", "--when-too-busy", "go-on"]
    /// Of every tree: none is through within no time at all.
    static let postCopy = quick + ["--when-too-busy", "post-copy", "--max-downtime", "0"]
    private let run: Run
    private let namespace: Process
    private var proxy: Process?
    /// Where it listens.
    private var place = ""
    var log: String { String.contents(of: run.scratch + "/receive.log") ?? "" }

    /// - Parameter lines: what bash(1) does there first, in the scratch directory.
    init(_ run: Run, _ lines: String, tls: [String]? = nil) throws {
        self.run = run
        let listening = tls.map { ["127.0.0.1:0"] + $0 } ?? ["unix:\(run.scratch)/receive.sock"]
        let script = """
            echo 30000 > /proc/sys/kernel/ns_last_pid
            cd '\(run.scratch)'
            \(lines)
            '\(Binaries.stasis)' receive --listen \(listening.joined(separator: " ")) -v4 2>receive.log </dev/null &
            while read -r words; do  # what the script that takes ssh's place wants
                bash -c "$words" 2>>receive.log <to-ssh >from-ssh &
            done <commands &
            while [ ! -e end ]; do sleep 0.02; done
            """
        namespace = Process()
        namespace.executableURL = URL(fileURLWithPath: "/usr/bin/unshare")
        namespace.arguments = ["-m", "-pf", "--mount-proc", "--kill-child", "/bin/bash", "-c", script]
        (namespace.standardInput, namespace.standardOutput, namespace.standardError) = (FileHandle.nullDevice, FileHandle.nullDevice, FileHandle.nullDevice)
        for fifo in ["commands", "to-ssh", "from-ssh"] { _ = unsafe mkfifo("\(run.scratch)/\(fifo)", 0o600) }
        try namespace.run()
        let isThere = eventually(within: 20) {
            guard let line = log.split(separator: "\n").first(where: { $0.contains("listening on ") }) else { return false }
            place = String(line.split(separator: " ").last ?? "")
            return true
        }
        guard isThere else { throw Failure("receive does not listen: \(log)") }
    }

    func migrate(to place: String? = nil, _ options: [String]) throws -> Command.Result {
        let bin = run.scratch + "/bin"
        try? FileManager.default.createDirectory(atPath: bin, withIntermediateDirectories: true)
        // The last three words are the program and what it is to do.
        try Data("#!/bin/bash\necho \"${@: -3}\" > '\(run.scratch)/commands'\ncat <&0 > '\(run.scratch)/to-ssh' & cat '\(run.scratch)/from-ssh'\n".utf8).write(to: URL(fileURLWithPath: bin + "/ssh"))
        _ = unsafe chmod(bin + "/ssh", 0o755)
        return try Command(
            Binaries.stasis, ["migrate", "\(run.root)", "--to", place ?? self.place, "-v3"] + options, in: run.scratch,
            environment: ["PATH": bin + ":" + (ProcessInfo.processInfo.environment["PATH"] ?? "")]
        ).run(within: 60)
    }

    /// Between source and destination: the first connection is cut at `moment`, later ones are not.
    func cuttingProxy(_ moment: String) throws -> String {
        let path = run.scratch + "/proxy.sock"
        // Messages without fields are five bytes: length 1 and a kind.
        let script = """
            import socket, sys, threading, time
            ours, its, moment = sys.argv[1:]
            ready, go, running = b"\\x01\\0\\0\\0\\x0b", b"\\x01\\0\\0\\0\\x0c", b"\\x01\\0\\0\\0\\x0d"
            kinds = {"in place of ready": ready, "in place of go": go}
            told = {"in place of running": b"", "behind running": running}.get(moment)
            limit = int(moment.split()[1]) if moment.startswith("after") else None
            listener = socket.socket(socket.AF_UNIX); listener.bind(ours); listener.listen(8)
            def serve(a, first):
                b = socket.socket(socket.AF_UNIX if its.startswith("unix:") else socket.AF_INET)
                b.connect(its[5:] if its.startswith("unix:") else (its.split(":")[0], int(its.split(":")[1])))
                count = [0]
                standing = []  # from where the tree is restored there; what it says then may come together with what it asks
                wanted = []  # from where memory is asked for it comes slowly: not all of it is there when the tree runs
                def copy(x, y):
                    try:
                        while data := x.recv(65536):
                            count[0] += len(data)
                            if x is b and data[4:5] == b"\\x10": wanted.append(1)
                            if x is a and wanted: time.sleep(0.005)
                            if first and (data == kinds.get(moment) or limit is not None and count[0] > limit): break
                            if x is b and ready in data: standing.append(1)
                            if first and told is not None and standing and x is b and running in data:
                                y.sendall(data[:data.find(running)] + told)
                                break
                            y.sendall(data)
                    except OSError: pass
                    for end in (a, b):
                        try: end.shutdown(socket.SHUT_RDWR)
                        except OSError: pass
                for pair in ((a, b), (b, a)): threading.Thread(target=copy, args=pair, daemon=True).start()
            first = True
            while True:
                serve(listener.accept()[0], first)
                first = False
            """
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", "-c", script, path, place, moment]
        (process.standardInput, process.standardOutput, process.standardError) = (FileHandle.nullDevice, FileHandle.nullDevice, FileHandle.nullDevice)
        try process.run()
        proxy = process
        guard eventually(within: 20, { exists(path) }) else { throw Failure("the proxy does not listen") }
        return path
    }

    /// Where the workload's processes are: those of the destination have an id more in their status (NSpid, proc_pid_status(5)).
    func expectCopies(here: Bool, there: Bool, standing: Bool = false) throws {
        var found = ""
        let isSo = eventually(within: 5) {
            let tasks = run.tasks().filter { $0.state != "Z" && $0.commandLine.contains("--detached") }
            let depth = { (task: Task) in (task.status("NSpid") ?? "").split(whereSeparator: \.isWhitespace).count }
            let least = Task(getpid()).map(depth) ?? 1
            let (ours, others) = (tasks.filter { depth($0) == least }, tasks.filter { depth($0) > least })
            found = "here \(ours.map { "\($0.pid) \($0.state)" }), there \(others.map { "\($0.pid) \($0.state)" })"
            return ours.isEmpty == !here && others.isEmpty == !there && (ours + others).allSatisfy { ($0.state == "T" || $0.state == "t") == standing }
        }
        guard isSo else { throw Failure("expected \(here ? "one here" : "none here"), \(there ? "one there" : "none there"); found \(found)\n\(log)") }
    }

    func checkItself() throws {
        run.go()
        let result = run.scratch + "/result"
        guard eventually(within: 30, { exists(result) }) else { throw Failure("no result\n\(log)") }
        guard let text = String.contents(of: result), text == "ok\n" else { throw Failure(String.contents(of: result) ?? "") }
    }

    func end() {
        if let proxy { kill(proxy.processIdentifier, SIGKILL) }  // it may have inherited blocked signals
        _ = FileManager.default.createFile(atPath: run.scratch + "/end", contents: nil)
        namespace.waitUntilExit()
    }
}
