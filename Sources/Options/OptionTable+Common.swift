import Linux

extension OptionTable {
    static let common: [OptionRow] = [
        OptionRow("images-dir", short: "D", taking: .required("DIR"), .all, .common, "image directory (default: .)") {
            $0.imagesDirectory = $1.text
        },
        OptionRow("work-dir", short: "W", taking: .required("DIR"), .all, .common, "directory for logs, pidfiles and statistics (default: that of -D)") {
            $0.workDirectory = $1.text
        },
        OptionRow("log-file", short: "o", taking: .required("FILE"), .all, .common, "write the log to FILE in the work directory (default: standard error)") {
            $0.logFile = $1.text
        },
        OptionRow("verbosity", short: "v", taking: .optional("N"), .all, .common, "log level: 0 nothing, 1 errors, 2 warnings (default), 3 what is done and when, 4 everything; each bare v adds one") {
            (options, value) throws(OptionError) in
            guard let text = value.argument else { return options.verbosity += 1 }
            if text.utf8.allSatisfy({ $0 == UInt8(ascii: "v") }) { return options.verbosity += text.utf8.count + 1 }
            // "-verbosity=4", with one dash, is read by getopt as -v with this argument; CRIU takes it, and its tests write it.
            let number = text.hasPrefix("erbosity=") ? String(text.dropFirst("erbosity=".utf8.count)) : text
            options.verbosity = try OptionValue(name: value.name, argument: number, isOn: true).number(in: 0...Int.max)
        },
        OptionRow("log-pid", negation: true, .restore, .common, "accepted for CRIU's sake: one process restores, and writes one log") {
            $0.logsPerTask = $1.isOn
        },
        OptionRow("display-stats", negation: true, [.dump, .restore], .common, "print counters and times at the end") {
            $0.displayStats = $1.isOn
        },
        OptionRow("pidfile", taking: .required("FILE"), [.restore, .service, .pageServer, .lazyPages, .receive], .common, "write the pid of the restored root task (of the server) to FILE") {
            $0.pidFile = $1.text
        },
        OptionRow("status-fd", taking: .required("FD"), [.dump, .restore, .pageServer, .service, .lazyPages, .receive], .common, "write one zero byte to FD, and close it, when done (a server: when ready)") {
            (options, value) throws(OptionError) in options.statusDescriptor = try value.descriptor()
        },
        OptionRow("action-script", taking: .required("FILE"), [.dump, .preDump, .restore, .migrate, .receive], .common, "program to run at the hook points; repeatable, later ones run first") {
            $0.actionScripts.append($1.text)
        },
        OptionRow("config", taking: .required("FILE"), .all, .common, "read this configuration file instead of the two default ones") {
            $0.configFile = $1.text
        },
        OptionRow("no-default-config", .all, .common, "do not read /etc/criu/default.conf and ~/.criu/default.conf") {
            $0.noDefaultConfig = $1.isOn
        },
        OptionRow("close", taking: .required("FD"), .all, .common, "close descriptor FD before anything else") {
            (options, value) throws(OptionError) in options.closedDescriptors.append(try value.descriptor())
        },
        OptionRow("libdir", short: "L", taking: .required("DIR"), .all, .common, "directory whose *.so files are loaded as plugins (default: $CRIU_LIBS_DIR, else /usr/lib/criu)") {
            $0.pluginDirectory = $1.text
        },
        OptionRow("unprivileged", negation: true, .all, .common, "run without root, with CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN") {
            $0.unprivileged = $1.isOn
        },
        OptionRow("deprecated", negation: true, .all, .common, "allow what is marked for removal") { $0.allowsDeprecated = $1.isOn },
        OptionRow("version", short: "V", .all, .common, "print the version") { _, _ in },
        OptionRow("help", short: "h", .all, .common, "print this help") { _, _ in },
    ]

    static let own: [OptionRow] = [
        OptionRow("json", .all, .own, "print one JSON object about the result, or about the error, on standard output") { $0.json = $1.isOn },
        OptionRow("plan", .restore, .own, "print what a restore would do, in order, and do nothing") { $0.plan = $1.isOn },
        OptionRow("remap-address", taking: .required("OLD=NEW"), [.restore, .receive], .own, "other addresses or ports for sockets: ADDR=ADDR, ADDR:PORT=ADDR:PORT, :PORT=:PORT; repeatable") {
            (options, value) throws(OptionError) in
            guard let remap = InetAddressRemap(value.text) else {
                throw .usage("--remap-address \"\(value.text)\": not two addresses", try: "--remap-address 10.0.0.1=10.0.0.2, or with ports 10.0.0.1:80=10.0.0.2:8080, :80=:8080")
            }
            options.addressRemaps.append(remap)
        },
        OptionRow("check-only", [.dump, .restore, .migrate], .own, "say what would fail, all of it, and change nothing; a dump writes images without memory") {
            $0.checkOnly = $1.isOn
        },
        OptionRow("digest", .dump, .own, "keep the SHA-256 of programs and libraries, so that a restore sees every change of them") { $0.digest = $1.isOn },
        OptionRow("compress", taking: .required("METHOD"), [.dump, .preDump, .pageServer], .own, "compress pages: zstd, zstd:LEVEL or lz4; CRIU can't read such images, every command of ours can") {
            (options, value) throws(OptionError) in
            guard let method = Compression(value.text) else { throw .usage("--compress \"\(value.text)\": no such method, or level", try: "--compress zstd, --compress zstd:9, --compress lz4") }
            options.compression = method
        },
        OptionRow("direct-io", [.dump, .preDump, .pageServer], .own, "write pages past the page cache (O_DIRECT): for images on a disk that are not restored soon") { $0.directIO = $1.isOn },
        OptionRow("encrypt", taking: .required("FILE"), [.dump, .preDump, .pageServer], .own, "encrypt images for who has the private key of the certificate in FILE, or the key in FILE; repeatable") {
            $0.encryptionRecipients.append($1.text)
        },
        OptionRow(
            "decrypt", taking: .required("FILE"), [.dump, .preDump, .restore, .lazyPages, .pageServer, .dedup, .verify, .networkUnlock, CommandSet(.cpuinfoCheck)], .own,
            "open encrypted images with the private key, or key, in FILE (default: $STASIS_DECRYPT); repeatable"
        ) { $0.decryptionKeys.append($1.text) },
        OptionRow("snapshot", .dump, .own, "let the tree run again after milliseconds and write its memory from a copy") { $0.snapshot = $1.isOn },
        OptionRow("background-load", .restore, .own, "let the tree run at once and load its memory behind it") { $0.backgroundLoad = $1.isOn },
        OptionRow("no-verify", [.restore, .lazyPages, .pageServer], .own, "take images as they are, without looking whether they are as they were dumped") { $0.verifies = !$1.isOn },
        OptionRow("to", taking: .required("PLACE"), .migrate, .own, "where the tree goes: ssh://[USER@]HOST[:PORT][/PROGRAM], unix:PATH, or HOST[:PORT] with --tls, --tls-psk or --insecure") {
            $0.destination = $1.text
        },
        OptionRow("max-downtime", taking: .required("MS"), .migrate, .own, "how long the tree may stand still for the last of its memory (default: 300)") {
            (options, value) throws(OptionError) in options.maxDowntime = try value.number(in: 0...UInt32.max)
        },
        OptionRow("max-rounds", taking: .required("N"), .migrate, .own, "copy memory at most so often before the freeze (default: 30; 0: only in the freeze)") {
            (options, value) throws(OptionError) in options.maxRounds = try value.number(in: 0...1000)
        },
        OptionRow("when-too-busy", taking: .required("WHAT"), .migrate, .own, "what to do when the tree writes memory faster than the connection takes it: give-up (default), go-on, or post-copy: let the rest of its memory follow the tree") {
            (options, value) throws(OptionError) in options.whenTooBusy = try value.choice()
        },
        OptionRow("listen", taking: .required("PLACE"), .receive, .own, "where to wait for the source: unix:PATH, or HOST:PORT with --tls, --tls-psk or --insecure") { $0.listens = $1.text },
        OptionRow("stdio", .receive, .own, "the source is at standard input and output (migrate --to ssh://HOST starts this)") { $0.usesStandardStreams = $1.isOn },
        OptionRow("tls-psk", taking: .required("FILE"), connected, .own, "encrypt connections by a secret that both ends have in a file, without certificates") { $0.tlsSharedKey = $1.text },
        OptionRow("insecure", [.migrate, .receive], .own, "permit plain TCP: the memory goes readable over the network, and whoever connects can start processes as us") {
            $0.isInsecure = $1.isOn
        },
        OptionRow("plugin-timeout", taking: .required("SECONDS"), [.dump, .preDump, .restore, .explain, .migrate, .receive], .own, "time limit for each step of a plugin, which is killed after it (default: 300)") {
            (options, value) throws(OptionError) in options.pluginTimeout = try value.number(in: 1...86400)
        },
        OptionRow("gpu-device-map", taking: .required("OLD=NEW,..."), [.restore, .receive], .own, "UUIDs of the dump's NVIDIA GPUs, and of those that take their place") {
            $0.gpuDeviceMap = $1.text
        },
        OptionRow("man", .help, .own, "print the manual page (roff)") { $0.manualPage = $1.isOn },
        OptionRow("completions", taking: .required("SHELL"), .help, .own, "print completions for bash, zsh or fish") {
            (options, value) throws(OptionError) in options.completions = try value.choice()
        },
    ]

    static let check: [OptionRow] = [
        OptionRow("extra", negation: true, .check, .check, "also test what is needed in particular cases") { $0.checkExtra = $1.isOn },
        OptionRow("experimental", negation: true, .check, .check, "also test experimental features") { $0.checkExperimental = $1.isOn },
        OptionRow("all", .check, .check, "both of these") {
            $0.checkExtra = $1.isOn
            $0.checkExperimental = $1.isOn
        },
        OptionRow("feature", taking: .required("NAME"), .check, .check, "test one feature; NAME \"list\" names them") {
            $0.checkFeatures.append($1.text)
        },
        OptionRow("ms", .check, .check, status: .removed("it hid what the kernel lacks"), "removed") { _, _ in },
    ]
}
