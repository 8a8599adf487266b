import Testing

@testable import Options

@Suite("configuration files") struct ConfigFileTests {
    private func words(_ contents: String) throws -> [String] {
        try ConfigFile(path: "conf", contents: contents).lines.map(\.word)
    }

    @Test("one option a line, comments, quotes") func syntax() throws {
        #expect(try words("""
            # a comment

            tcp-established
            \tverbosity 4
            work-dir "/dir with spaces"#comment
            lsm-profile "selinux:with\\"quotes" # more
            log-file=x.log
            lsm-profile ""
            no-restore-sibling   # this is another comment
            work-dir "C:\\dir"
            """) == [
                "--tcp-established", "--verbosity=4", "--work-dir=/dir with spaces", "--lsm-profile=selinux:with\"quotes", "--log-file=x.log",
                "--lsm-profile=", "--no-restore-sibling", "--work-dir=C:\\dir",
            ])
    }

    @Test("what is no option is refused with its line", arguments: [
        ("tcp-close\nlog-file a b", "conf, line 2"), ("work-dir \"open", "conf, line 1"), ("--tcp-close", "conf, line 1"), ("\n\nnonsense 1", "conf, line 3"),
        ("dump", "conf, line 1"), ("timeout 5x", "conf"), ("tcp-close yes", "conf, line 1"), ("work-dir", "conf, line 1"),
    ]) func refused(contents: String, place: String) {
        let message = refusal("check", "--config", "conf", files: ["conf": contents])
        #expect(place == "conf" ? message != nil : message?.hasPrefix(place) == true, "\(message ?? "taken")")
    }

    private let everywhere = [
        "/etc/criu/default.conf": "timeout 1\nexternal net[1]:a\nlink-remap", "/home/me/.criu/default.conf": "timeout 2\nexternal net[2]:b",
        "/env.conf": "timeout 3\nexternal net[3]:c", "/mine.conf": "timeout 4\nexternal net[4]:d",
    ]

    @Test("global, user, environment, --config, command line: the later one wins, lists add up") func order() throws {
        let home = ["HOME": "/home/me"], both = ["HOME": "/home/me", "CRIU_CONFIG_FILE": "/env.conf"]
        let defaults = try options("dump", "-t1", environment: home, files: everywhere)
        #expect(defaults.timeout == 2 && defaults.linkRemap && defaults.externals.map(\.id) == ["1", "2"])
        let withEnvironment = try options("dump", "-t1", environment: both, files: everywhere)
        #expect(withEnvironment.timeout == 3 && withEnvironment.externals.map(\.id) == ["1", "2", "3"])
        let line = try options("dump", "-t1", "--timeout=5", "--no-link-remap", environment: both, files: everywhere)
        #expect(line.timeout == 5 && !line.linkRemap)
    }

    @Test("--config and --no-default-config switch the default files off, not the environment's") func switches() throws {
        let both = ["HOME": "/home/me", "CRIU_CONFIG_FILE": "/env.conf"]
        let config = try options("dump", "-t1", "--config", "/mine.conf", environment: both, files: everywhere)
        #expect(config.timeout == 4 && config.externals.map(\.id) == ["3", "4"])
        let none = try options("dump", "-t1", "--no-default-config", environment: both, files: everywhere)
        #expect(none.timeout == 3 && none.externals.map(\.id) == ["3"])
    }

    @Test("default files may be missing, named ones may not") func missing() throws {
        _ = try options("check", environment: ["HOME": "/home/me"])
        #expect(refusal("check", "--config", "/none") == "--config \"/none\": no such file, or none that we may read")
        #expect(refusal("check", environment: ["CRIU_CONFIG_FILE": "/none"]) == "$CRIU_CONFIG_FILE \"/none\": no such file, or none that we may read")
    }
}
