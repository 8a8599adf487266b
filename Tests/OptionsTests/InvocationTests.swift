import Testing

@testable import Options

/// What the words ask for; files are the ones given.
func invocation(
    _ words: [String], environment: [String: String] = [:], files: [String: String] = [:]
) throws(OptionError) -> Invocation {
    try Invocation(arguments: words, environment: { environment[$0] }) { path throws(OptionError) in files[path] }
}

func options(_ words: String..., environment: [String: String] = [:], files: [String: String] = [:]) throws -> Options {
    guard case .run(let options) = try invocation(words, environment: environment, files: files) else {
        throw OptionError.usage("not a command")
    }
    return options
}

/// The message with which the words are refused; nil when they aren't.
func refusal(_ words: String..., environment: [String: String] = [:], files: [String: String] = [:]) -> String? {
    do throws(OptionError) {
        _ = try invocation(words, environment: environment, files: files)
        return nil
    } catch { return error.message }
}

@Suite("command line") struct InvocationTests {
    @Test("defaults are CRIU's") func defaults() throws {
        let options = try options("dump", "-t", "1")
        var expected = Options(command: .dump)
        expected.tree = 1
        #expect(options == expected)
        #expect(options.imagesDirectory == "." && options.verbosity == 2 && options.ghostLimit == 1_048_576 && options.timeout == 10)
        #expect(options.ghostFiemap && options.fileValidation == .buildid && options.manageCgroups == .soft)
    }

    @Test("a tree's pid, in every way to write it", arguments: [["-t", "12"], ["-t12"], ["--tree", "12"], ["--tree=12"], ["--tre=12"]])
    func spellings(words: [String]) throws {
        for line in [["dump"] + words, words + ["dump"]] {
            guard case .run(let options) = try invocation(line) else { return #expect(Bool(false)) }
            #expect(options.tree == 12 && options.command == .dump)
        }
    }

    @Test("verbosity", arguments: [
        (["-v"], 3), (["-vv"], 4), (["-vvvv"], 6), (["-v0"], 0), (["-v4"], 4), (["-v", "-v"], 4), (["--verbosity"], 3), (["--verbosity=1"], 1),
        (["-verbosity=0"], 0), (["-v0", "-v"], 1),
    ]) func verbosity(words: [String], level: Int) throws {
        guard case .run(let options) = try invocation(["check"] + words) else { return #expect(Bool(false)) }
        #expect(options.verbosity == level)
    }

    @Test("numbers are read whole", arguments: [
        ["-t", "12x"], ["-t", ""], ["-t", "x"], ["-t", "0"], ["-t", "-1"], ["-t", " 1"], ["-t", "1 "], ["-t", "+1"], ["-t", "4294967297"],
        ["-t", "0x10"], ["-t", "1-2"], ["--port", "99999999"], ["--port", "80a"], ["--timeout", "-1"], ["--timeout", "1.5"],
        ["--ghost-limit", "1T"], ["--ghost-limit", "M"], ["--ghost-limit", "1MM"], ["--ghost-limit", "99999999999G"], ["-vx"], ["-v4x"],
        ["--status-fd", "one"], ["--close", "-1"], ["-x12,a"], ["-x12,,13"],
    ]) func badNumbers(words: [String]) {
        do throws(OptionError) {
            _ = try invocation(["check"] + words)
            Issue.record("\(words) was taken")
        } catch {
            let option = words[0].hasPrefix("--") ? words[0] : ["-t": "--tree", "-v": "--verbosity", "-x": "--ext-unix-sk"][String(words[0].prefix(2))]!
            #expect(error.message.contains(option), "\(error.message)")
            #expect(error.message.contains("\""), "names the value: \(error.message)")
        }
    }

    @Test("sizes", arguments: [("0", 0), ("17", 17), ("2K", 2048), ("8m", 8 << 20), ("1G", 1 << 30)] as [(String, UInt64)])
    func sizes(text: String, bytes: UInt64) throws {
        #expect(try options("dump", "-t1", "--ghost-limit", text).ghostLimit == bytes)
    }

    @Test("flags and their --no- forms; the last one wins") func negations() throws {
        #expect(try options("restore", "-j", "--no-shell-job").shellJob == false)
        #expect(try options("restore", "--no-shell-job", "--shell-job").shellJob)
        #expect(try options("dump", "-t1", "--no-ghost-fiemap").ghostFiemap == false)
        #expect(refusal("dump", "-t1", "--no-leave-running")?.contains("--no-leave-running") == true)
    }

    @Test("the options of CRIU's tests for a host process") func zdtmDump() throws {
        let options = try options(
            "dump", "--no-default-config", "--log-file", "dump.log", "--images-dir", "dump/1", "--verbosity=4", "--tree", "77",
            "--tcp-established", "--manage-cgroups=full", "--cgroup-root", "name=zdtmtst:/prefix", "--file-locks", "--link-remap",
            "--ext-unix-sk", "--pidfile", "/tmp/x.pid", "--freeze-cgroup", "/sys/fs/cgroup/f", "--external", "tty[8801:25]", "--timeout", "10")
        #expect(options.logFile == "dump.log" && options.imagesDirectory == "dump/1" && options.verbosity == 4 && options.tree == 77)
        #expect(options.tcpEstablished && options.fileLocks && options.linkRemap && options.manageCgroups == .full && options.managesCgroups)
        #expect(options.cgroupRoots == [CgroupRoot(controller: "name=zdtmtst", path: "/prefix")])
        #expect(options.externalUnixSockets == .all && options.freezeCgroup == "/sys/fs/cgroup/f")
        #expect(options.externals == [External(kind: .tty, id: "8801:25", value: nil)])
    }

    @Test("the command after -- belongs to --exec-cmd") func execCommand() throws {
        let options = try options("restore", "-D", "x", "--exec-cmd", "--", "sh", "-c", "-d")
        #expect(options.execCommand == ["sh", "-c", "-d"] && !options.restoreDetached)
        #expect(refusal("restore", "--exec-cmd")?.contains("--exec-cmd") == true)
        #expect(refusal("restore", "-d", "--exec-cmd", "--", "sh")?.contains("--restore-detached") == true)
    }

    @Test("inherited descriptors", arguments: [
        ("fd[3]:pipe:[4711]", 3, "pipe:[4711]"), ("fd[0]:tty[8801:25]", 0, "tty[8801:25]"), ("fd[10]:tmp/a b", 10, "tmp/a b"),
        ("fd[5]:/memfd:x", 5, "/memfd:x"), ("fd[6]:socket:[9]", 6, "socket:[9]"),
    ] as [(String, Int32, String)]) func inheritedDescriptors(text: String, descriptor: Int32, resource: String) throws {
        #expect(try options("restore", "--inherit-fd", text).inheritedDescriptors == [.init(descriptor: descriptor, resource: resource)])
    }

    @Test("what is no descriptor is refused", arguments: ["3", "fd[]:x", "fd[x]:y", "fd[3]", "fd[3]:", "fd3:x", "fd[-1]:x", "FD[1]:x"])
    func badInheritedDescriptors(text: String) {
        #expect(refusal("restore", "--inherit-fd", text)?.contains("--inherit-fd \"\(text)\"") == true)
    }

    @Test("--inherit-fd debug[N]:TEXT is kept apart") func debugTexts() throws {
        let options = try options("restore", "--inherit-fd", "debug[2]:hello", "--inherit-fd", "fd[3]:x")
        #expect(options.debugTexts == [.init(descriptor: 2, resource: "hello")])
        #expect(options.inheritedDescriptors == [.init(descriptor: 3, resource: "x")])
    }

    @Test("external resources", arguments: [
        ("mnt[/a]:b", .mnt, "/a", "b"), ("mnt[]:s", .mnt, "", "s"), ("mnt[]", .mnt, "", nil), ("file[1f:2a]", .file, "1f:2a", nil),
        ("net[12]:n", .net, "12", "n"), ("veth[eth0]:v@br", .veth, "eth0", "v@br"), ("mnt[/a]b]:c:d", .mnt, "/a]b", "c:d"),
    ] as [(String, External.Kind, String, String?)]) func externals(text: String, kind: External.Kind, id: String, value: String?) throws {
        #expect(try options("restore", "--external", text).externals == [External(kind: kind, id: id, value: value)])
    }

    @Test("bad external resources are refused", arguments: ["", "mnt", "foo[1]", "mnt[/a", "mnt[/a]b"])
    func badExternals(text: String) { #expect(refusal("restore", "--external", text) != nil) }

    @Test("choices", arguments: [
        ["--manage-cgroups=loose"], ["--file-validation", "md5"], ["--network-lock", "off"], ["--pre-dump-mode", "x"], ["--cpu-cap=sse"],
        ["--cgroup-root", "relative"], ["-J", "pid:1"], ["-J", "net"],
    ]) func badChoices(words: [String]) {
        #expect(throws: OptionError.self) { try invocation(["check"] + words) }
    }

    @Test("what comes later is refused where it would have an effect", arguments: [
        ["restore", "--join-ns", "uts:1"], ["restore", "-r", "/"],
        ["restore", "-M", "a:b"], ["restore", "--enable-fs", "all"],
        ["service"], ["swrk", "3"],
    ]) func notYet(words: [String]) {
        do throws(OptionError) {
            _ = try invocation(words)
            Issue.record("\(words) was taken")
        } catch {
            #expect(error.kind == .notSupportedYet, "\(error)")
            #expect(error.message.hasPrefix("not supported yet: "), "\(error)")
        }
    }

    @Test("an option without effect on the command is taken, as CRIU takes it") func withoutEffect() throws {
        _ = try options("check", "--pre-dump-mode", "read", "--auto-dedup", "--page-server", "--track-mem", "--display-stats", "-v0")
        #expect(try options("dump", "-t1", "--cpu-cap=none", "--no-track-mem", "--no-page-server").cpuCapabilities == nil)
    }

    @Test("a migration's images need no encryption where none of them lies on a disk") func migrationsAreNotSealed() throws {
        let file = ["seals": "encrypt host.key"]
        #expect(try options("receive", "--listen", "unix:/s", "--config", "seals", files: file).encryptionRecipients.isEmpty)
        #expect(try options("dump", "-t", "1", "--config", "seals", files: file).encryptionRecipients == ["host.key"])
        #expect(refusal("receive", "--listen", "unix:/s", "-D", "d", "--config", "seals", files: file)?.contains("lie in memory without -D") == true)
        #expect(refusal("migrate", "1", "--to", "unix:/s", "--encrypt", "host.key")?.contains("images that stay") == true)
    }

    @Test("a dump to a page server says what the server can do in its place") func pagesElsewhere() throws {
        #expect(refusal("dump", "-t1", "--page-server", "--port", "1", "--compress", "zstd")?.contains("the server writes the pages") == true)
        #expect(refusal("dump", "-t1", "--page-server", "--port", "1", "--direct-io")?.contains("the server writes the pages") == true)
        #expect(try options("page-server", "--compress", "lz4").compression != nil)
        #expect(try options("network-unlock", "CRIU-1").lockName == "CRIU-1")
    }

    @Test("words that mean nothing are refused with what to do") func unknown() {
        #expect(refusal("dump", "--tre3", "1") == "unknown option --tre3")
        #expect(refusal("dump", "-Z") == "unknown option -Z")
        #expect(refusal("dump", "--t", "1")?.contains("not clear") == true)
        #expect(refusal("dump", "--leave-running=yes")?.contains("takes no argument") == true)
        #expect(refusal("dump", "-t") == "--tree needs an argument: PID")
        #expect(refusal("dump", "--tree") == "--tree needs an argument: PID")
        #expect(refusal("freeze") == "unknown command \"freeze\"")
        #expect(refusal("dump", "-t1", "more") == "too many words for dump: \"more\"")
        #expect(refusal() == "no command given")
        #expect(refusal("cpuinfo")?.contains("cpuinfo") == true)
        #expect(refusal("swrk") == "swrk needs a descriptor: swrk FD")
        #expect(refusal("exec") != nil && refusal("show") != nil && refusal("check", "--ms") != nil)
        #expect(throws: OptionError.usage("unknown option --tree-pid", try: "stasis --help")) { try invocation(["--tree-pid"]) }
        #expect(throws: OptionError.usage("unknown option --exernal", try: "--external")) { try invocation(["--exernal"]) }
    }

    @Test("contradictions") func contradictions() {
        #expect(refusal("dump")?.contains("pid") == true)
        #expect(refusal("restore", "-S")?.contains("--restore-detached") == true)
        #expect(refusal("dump", "-t1", "-R", "-s")?.contains("exclude") == true)
    }

    @Test("--help and --version come before anything else") func helpAndVersion() throws {
        #expect(try invocation(["dump", "-h"]) == .help)
        #expect(try invocation(["--version"]) == .version)
        #expect(try invocation(["-V"], environment: ["CRIU_CONFIG_FILE": "/nowhere"]) == .version)
        #expect(try invocation(["check", "--h", "--config=bad"], files: ["bad": "\"open"]) == .help)
    }

    @Test("own options take part in no abbreviation") func ownOptions() throws {
        #expect(try options("restore", "--json", "--plan").json)
        #expect(try options("restore", "--plan").plan)
        #expect(try options("restore", "--j", "net:1").joinedNamespaces.map(\.target) == ["1"])
        #expect(try options("help", "--completions", "fish").completions == .fish)
        #expect(try options("help", "--man").manualPage)
    }

    @Test("unix sockets add up") func unixSockets() throws {
        #expect(try options("dump", "-t1", "-x1,2", "--ext-unix-sk=3").externalUnixSockets == .inodes([1, 2, 3]))
        #expect(try options("dump", "-t1", "-x1", "-x").externalUnixSockets == .all)
    }

    @Test("CPU capabilities add to fpu and ins", arguments: [
        (nil, .all), ("cpu", .all), ("fpu", [.fpu, .ins]), ("^fpu", [.ins]), ("none", []), ("^none", .all), ("all,^cpu", [.fpu, .ins]), ("none,cpu", [.cpu]),
        ("", [.fpu, .ins]), ("^fpu^ins", [.ins]), ("^^fpu", [.fpu, .ins]),
    ] as [(String?, CPUCapabilities)]) func cpuCapabilities(text: String?, expected: CPUCapabilities) throws {
        #expect(try OptionValue(name: "--cpu-cap", argument: text, isOn: true).cpuCapabilities() == expected)
    }
}
