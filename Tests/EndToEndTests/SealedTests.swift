import Foundation
import Testing

extension EndToEnd {
    /// dump --encrypt: everything reads such images without being told, but for the key.
    @Suite("encrypted images", .serialized) struct Sealed {
        private func run(_ workload: String, _ body: @escaping (Run, Keys) throws -> Void) throws {
            try Run.live(workload, again: "swift test --filter EndToEnd.Sealed", as: "\(workload)-sealed") { run in try body(run, try Keys(in: run.scratch)) }
        }

        /// No image shows anything of the tree: neither a magic nor a text.
        private func checkNothingShows(_ run: Run) throws {
            for name in try FileManager.default.contentsOfDirectory(atPath: run.images) where name.hasSuffix(".img") {
                guard let bytes = FileManager.default.contents(atPath: run.images + "/" + name) else { throw Failure("\(name) can't be read") }
                let isKnown = name.hasPrefix("sealed-") || bytes.starts(with: Data("SCKSEAL1".utf8)) || bytes.starts(with: Data("SCKKEYS1".utf8))
                guard isKnown, bytes.range(of: Data("workload".utf8)) == nil else { throw Failure("\(name) can be read") }
            }
        }

        @Test("are restored as what they were", arguments: ["memory-shared", "memory-files", "cow", "ghosts", "memory-sysv", "unix-rights", "tree"])
        func restored(workload: String) throws {
            try run(workload) { run, keys in
                try run.dumpAndKill(["--encrypt", keys.file])
                try self.checkNothingShows(run)
                run.restoreOptions = ["--decrypt", keys.file]
                try run.verify(run.restoreOptions)
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("by a certificate, and for several", arguments: ["rsa", "ec", "both"]) func certificates(kind: String) throws {
            try run("memory-private") { run, keys in
                let (certificate, key) = kind == "rsa" ? (keys.rsa + ".pem", keys.rsa + ".key") : (keys.ec + ".pem", keys.ec + ".key")
                try run.dumpAndKill(["--encrypt", certificate, "--compress", "zstd"] + (kind == "both" ? ["--encrypt", keys.file] : []))
                try self.checkNothingShows(run)
                run.restoreOptions = ["--decrypt", key]
                try run.verify(run.restoreOptions)
                if kind == "both" { run.restoreOptions = ["--decrypt", keys.other, "--decrypt", keys.file] }
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("may be mixed with others in a chain, for others, and deduplicated") func chain() throws {
            try run("memory-writer") { run, keys in
                let opening = ["--decrypt", keys.file, "--decrypt", keys.other]
                try run.preDump(["--encrypt", keys.file])
                try run.preDump(opening)
                try run.preDump(["--encrypt", keys.other, "--compress", "lz4"] + opening)
                // What is in the parents has to be known.
                let before = run.onPrevious
                let refused = try run.dumpCommand(before + ["--encrypt", keys.file]).run(within: 60)
                guard !refused.succeeded, refused.output.contains("--prev-images-dir"), refused.output.contains("no key was given") else { throw Failure("\(refused)") }
                guard try FileManager.default.contentsOfDirectory(atPath: run.images).allSatisfy({ !$0.hasSuffix(".img") }) else { throw Failure("a refused dump has left images") }
                try run.dumpAndKill(["--prev-images-dir", "../3", "--track-mem", "--encrypt", keys.file, "--auto-dedup"] + opening)
                run.restoreOptions = opening
                try run.verify(run.restoreOptions)
                let freed = try Command(Binaries.stasis, ["dedup", "-D", run.images] + opening, in: run.folder).run(within: 60)
                guard freed.succeeded else { throw Failure("dedup: \(freed)") }
                try run.verify(run.restoreOptions)
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("of a snapshot, and with the memory loaded behind") func snapshot() throws {
            try run("memory-writer") { run, keys in
                try run.dump(["--snapshot", "--encrypt", keys.file])
                run.killAll()
                run.restoreOptions = ["--decrypt", keys.file]
                try run.verify(run.restoreOptions)
                try run.restore(["--background-load"])
                try run.checkItself()
                let name = "working-set-\(run.root).img"
                guard eventually(within: 5, { exists(run.images + "/" + name) }) else { throw Failure("no \(name)") }
                try self.checkNothingShows(run)
            }
        }

        @Test("give lazy pages, here and from a page server", arguments: [false, true]) func lazy(remote: Bool) throws {
            try run("memory-writer") { run, keys in
                try run.dumpAndKill(["--encrypt", keys.file])
                var words = ["lazy-pages", "--decrypt", keys.file]
                if remote { words += ["--page-server", "--address", "127.0.0.1", "--port", try run.startServer(["page-server", "--lazy-pages", "--port", "0", "--decrypt", keys.file], next: false)] }
                _ = try run.startServer(words, next: false)
                try run.restore(["--lazy-pages", "--decrypt", keys.file])
                try run.checkItself()
            }
        }

        @Test("beside a page server that encrypts its own, or does not", arguments: [false, true]) func pageServer(encrypts: Bool) throws {
            try run("memory-writer") { run, keys in
                run.restoreOptions = ["--decrypt", keys.file] + (encrypts ? ["--decrypt", keys.ec + ".key"] : [])
                for last in [false, true] {
                    let before = run.onPrevious
                    let port = try run.startServer(["page-server", "--port", "0"] + (encrypts ? ["--encrypt", keys.ec + ".pem"] : []), next: true)
                    let words = before + ["--encrypt", keys.file, "--decrypt", keys.file, "--page-server", "--address", "127.0.0.1", "--port", port]
                    try run.dump(words, command: last ? "dump" : "pre-dump")
                    if encrypts { try self.checkNothingShows(run) }
                }
                try run.verify(run.restoreOptions)
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("are looked at by a restore that only checks, and by verify without a key") func checked() throws {
            try run("memory-private") { run, keys in
                try run.dumpAndKill(["--encrypt", keys.file])
                let check = try run.restoreCommand(["--check-only", "--decrypt", keys.file]).run(within: 60)
                guard check.succeeded else { throw Failure("\(check)") }
                let verified = try run.verifyCommand().run(within: 60)
                guard verified.succeeded, verified.output.contains("without --decrypt only the outside") else { throw Failure("\(verified)") }
                for name in ["core-\(run.root).img", "inventory.img", "pagemap-\(run.root).img", "encryption.img"] {
                    try run.flip(name, at: run.size(name) / 2)
                    let found = try run.verifyCommand().run(within: 60)
                    guard !found.succeeded, found.output.contains(name) else { throw Failure("\(name): \(found)") }
                    try run.flip(name, at: run.size(name) / 2)
                }
                run.restoreOptions = ["--decrypt", keys.file]
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("without the right key, or damaged, are refused by name, and nothing is left") func refused() throws {
            try run("memory-private") { run, keys in
                try run.dumpAndKill(["--encrypt", keys.file, "--encrypt", keys.rsa + ".pem"])
                func expect(_ words: [String], _ given: [String]? = nil, _ what: String) throws {
                    let result = try run.restoreCommand(given ?? ["--decrypt", keys.file]).run(within: 60)
                    guard !result.succeeded, words.allSatisfy(result.output.contains) else { throw Failure("\(what): \(result)") }
                    guard eventually(within: 2, { run.tasks().isEmpty }) else { throw Failure("\(what): left by a restore that was refused: \(run.tasks().map(\.commandLine))") }
                }
                try expect(["encrypted for key file", "certificate rsa (RSA 2048", "no key was given", "try: --decrypt FILE"], [], "no key")
                try expect(["none of theirs"], ["--decrypt", keys.other], "another key")
                try expect(["has a pass phrase", "try: openssl pkey"], ["--decrypt", keys.rsa + ".locked"], "a key with a pass phrase")
                try expect(["is not a private key"], ["--decrypt", keys.rsa + ".pem"], "a certificate")
                try expect(["can't be read"], ["--decrypt", keys.file + ".none"], "no file")
                let sealed = try run.pages("sealed-")[0], core = "core-\(run.root).img"
                for name in ["inventory.img", core, "mm-\(run.root).img", "pagemap-\(run.root).img", "files.img", "checksums.img", "encryption.img", sealed] {
                    let path = run.images + "/" + name, place = run.size(name) / 2
                    try run.flip(name, at: place)
                    try expect([name, "not as it was dumped"], nil, "\(name) flipped")
                    if name == sealed { try expect([name, "can't be decrypted"], ["--decrypt", keys.file, "--no-verify"], "\(name) flipped, without --no-verify") }
                    try run.flip(name, at: place)
                    guard let bytes = FileManager.default.contents(atPath: path) else { throw Failure(name) }
                    try bytes.dropLast(9).write(to: URL(filePath: path))
                    try expect([name], nil, "\(name) cut")
                    try bytes.write(to: URL(filePath: path))
                }
                let key = run.images + "/encryption.img"
                try FileManager.default.moveItem(atPath: key, toPath: key + ".away")
                try expect(["encryption.img", "it is missing"], nil, "no encryption.img")
                try FileManager.default.moveItem(atPath: key + ".away", toPath: key)
                // Of the same size and sum, somebody could think.
                let (bytes, other) = (FileManager.default.contents(atPath: run.images + "/" + core), FileManager.default.contents(atPath: run.images + "/seccomp.img"))
                try other?.write(to: URL(filePath: run.images + "/" + core))
                try expect([core], nil, "\(core) is another image")
                try expect([core, "does not belong here"], ["--decrypt", keys.file, "--no-verify"], "\(core) is another image, without checksums")
                try bytes?.write(to: URL(filePath: run.images + "/" + core))
                run.restoreOptions = ["--decrypt", keys.rsa + ".key"]
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("a key that others may read is used and warned of; what can't be encrypted is refused first") func words() throws {
            try run("pipes") { run, keys in
                for (options, words) in [
                    (["--encrypt", keys.file, "--direct-io"], "--direct-io and --encrypt exclude"), (["--encrypt", keys.file, "--auto-dedup"], "--auto-dedup with --encrypt"),
                    (["--encrypt", keys.file, "-L", "/tmp"], "--encrypt and --libdir"), (["--encrypt", keys.rsa + ".key"], "is a private key"), (["--encrypt", "/etc/hostname"], "is no key"),
                ] {
                    let result = try run.dumpCommand(options).run(within: 60)
                    guard !result.succeeded, result.output.contains(words), kill(run.root, 0) == 0 else { throw Failure("\(options): \(result)") }
                }
                _ = unsafe chmod(keys.file, 0o644)
                try run.dumpAndKill(["--encrypt", keys.file])
                guard String.contents(of: run.images + "/dump.log")?.contains("may be read by others: chmod 600") == true else { throw Failure("no warning") }
                var restore = run.restoreCommand()
                restore.environment["STASIS_DECRYPT"] = keys.file
                let result = try restore.run(within: 60)
                guard result.succeeded else { throw Failure("by $STASIS_DECRYPT: \(result)") }
                try run.checkItself()
            }
        }
    }
}

/// Two key files and two certificates, made by openssl(1).
struct Keys {
    let file: String, other: String, rsa: String, ec: String

    init(in folder: String) throws {
        (file, other, rsa, ec) = (folder + "/key", folder + "/otherkey", folder + "/rsa", folder + "/ec")
        let result = try Command("/bin/bash", ["-euc", """
            umask 077; for key in key otherkey; do head -c 32 /dev/urandom >$key; done
            openssl req -x509 -newkey rsa:2048 -nodes -keyout rsa.key -out rsa.pem -subj /CN=rsa -days 2
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout ec.key -out ec.pem -subj /CN=ec -days 2
            openssl pkey -in rsa.key -aes256 -passout pass:secret -out rsa.locked
            """], in: folder).run(within: 60)
        guard result.succeeded else { throw Failure("openssl: \(result)") }
    }
}
