import Glibc

/// What a command line asks for.
package enum Invocation: Sendable, Equatable {
    case run(Options)
    case version
    case help

    /// Reads everything that decides the options: /etc/criu/default.conf, ~/.criu/default.conf, $CRIU_CONFIG_FILE,
    /// `--config FILE`, the command line; what comes later wins, lists add up.
    /// - Parameter arguments: without the program's name.
    /// - Parameter environment: the value of a variable.
    /// - Parameter readFile: a file's text, or nil where there is none that can be read.
    package init(
        arguments: [String], environment: (String) -> String?, readFile: (String) throws(OptionError) -> String?
    ) throws(OptionError) {
        let line = try sortWords(arguments)
        let isGiven = { (name: String) in line.options.contains { $0.row.name == name } }
        // Both are looked for before configuration files are read, so that a bad one doesn't keep the help away.
        if isGiven("help") {
            self = .help
            return
        }
        if isGiven("version") {
            self = .version
            return
        }
        var (command, operands) = try Self.command(line.operands)
        var options = Options(command: command)
        if command == .swrk { options.workerDescriptor = try Self.workerDescriptor(&operands) }
        if command == .migrate, let first = operands.first {
            options.tree = try OptionValue(name: "migrate", argument: first, isOn: true).number(in: 1...Int32.max)
            operands.removeFirst()
        }
        if environment("CRIU_DEPRECATED") != nil { options.allowsDeprecated = true }
        options.pluginDirectory = environment("CRIU_LIBS_DIR")
        if let file = environment("STASIS_DECRYPT"), !file.isEmpty { options.decryptionKeys.append(file) }

        let configFile = line.options.last { $0.row.name == "config" }?.value.text
        var given: [GivenOption] = []
        if configFile == nil, !isGiven("no-default-config") {
            let user = environment("HOME").map { $0 + "/.criu/default.conf" }
            for path in ["/etc/criu/default.conf", user].compactMap({ $0 }) {
                if let contents = try readFile(path) { given += try ConfigFile(path: path, contents: contents).options() }
            }
        }
        for (path, origin) in [(environment("CRIU_CONFIG_FILE"), "$CRIU_CONFIG_FILE"), (configFile, "--config")] {
            guard let path else { continue }
            guard let contents = try readFile(path) else { throw .usage("\(origin) \"\(path)\": no such file, or none that we may read") }
            given += try ConfigFile(path: path, contents: contents).options()
        }
        for option in given + line.options {
            if option.value.isOn, option.row.commands.contains(CommandSet(command)) {
                switch option.row.status {
                case .supported: break
                case .notYet(let feature): throw .notYet("--" + option.row.name, feature)
                case .removed(let instead): throw .usage("--\(option.row.name) is gone: \(instead)")
                }
            }
            try option.row.apply(&options, option.value)
        }
        switch command.status {
        case .supported: break
        case .notYet(let feature): throw .notYet(command.rawValue, feature)
        case .removed(let instead): throw .usage("\(command.rawValue) is gone: \(instead)")
        }
        if options.execCommand != nil {
            options.execCommand = operands
            operands = []
        }
        if command == .verify, !operands.isEmpty { options.imagesDirectory = operands.removeFirst() }
        if command == .networkUnlock, !operands.isEmpty { options.lockName = operands.removeFirst() }
        // None of a migration's images lies on a disk without -D: what a configuration file says of images is for other commands.
        if [.migrate, .receive].contains(command), !isGiven("encrypt"), options.imagesDirectory == "." { options.encryptionRecipients = [] }
        guard operands.isEmpty else {
            throw .usage("too many words for \(command.rawValue): \(operands.map { "\"\($0)\"" }.joined(separator: " "))")
        }
        try options.refuseContradictions()
        self = .run(options)
    }

    private static func command(_ words: [String]) throws(OptionError) -> (Command, [String]) {
        guard let first = words.first else { throw .usage("no command given", try: "stasis --help") }
        if first == "cpuinfo" {
            guard words.count > 1, let command = Command(rawValue: "cpuinfo " + words[1]) else {
                throw .usage("cpuinfo what?", try: "cpuinfo dump, cpuinfo check")
            }
            return (command, Array(words.dropFirst(2)))
        }
        guard !first.contains(" "), let command = Command(rawValue: first) else {
            throw .usage("unknown command \"\(first)\"", try: "stasis --help")
        }
        return (command, Array(words.dropFirst()))
    }

    private static func workerDescriptor(_ operands: inout [String]) throws(OptionError) -> Int32 {
        guard !operands.isEmpty else { throw .usage("swrk needs a descriptor: swrk FD") }
        return try OptionValue(name: "swrk", argument: operands.removeFirst(), isOn: true).descriptor()
    }
}

extension Options {
    /// What no combination may ask for.
    package func refuseContradictions() throws(OptionError) {
        if command == .migrate {
            if tree == nil { throw .usage("migrate needs the pid of the tree's root", try: "migrate PID --to ssh://HOST") }
            if destination == nil { throw .usage("migrate needs to know where to", try: "--to ssh://HOST, --to unix:PATH") }
        }
        if command == .receive, (listens == nil) != usesStandardStreams {
            throw .usage("receive needs one place where the source comes", try: "--listen unix:PATH, or --stdio")
        }
        if usesStandardStreams, tls || tlsSharedKey != nil { throw .usage("--tls and --tls-psk are for --listen: ssh, which brings the source to --stdio, encrypts itself") }
        if tlsSharedKey != nil, tls || [tlsCertificate, tlsKey, tlsCACertificate, tlsRevocationList].contains(where: { $0 != nil }) {
            throw .usage("--tls-psk and certificates exclude each other", try: "--tls-psk FILE alone, or --tls with --tls-cert and --tls-key")
        }
        if [.dump, .preDump, .explain].contains(command), tree == nil {
            throw .usage("\(command.rawValue) needs the pid of the tree's root", try: "\(command.rawValue) -t PID")
        }
        if [.dump, .preDump, .lazyPages].contains(command), sendsToPageServer, pageServerSocket == nil, port ?? 0 == 0 {
            throw .usage("--page-server needs to know where it is", try: "--address ADDR --port N, or --ps-socket FD")
        }
        if [.dump, .preDump].contains(command), sendsToPageServer, compression != nil { throw .usage("--compress and --page-server exclude each other: the server writes the pages", try: "page-server --compress METHOD there") }
        if directIO, compression != nil { throw .usage("--direct-io and --compress exclude each other: what is compressed is of any size, direct I/O is of whole pages") }
        if !encryptionRecipients.isEmpty {
            if [.migrate, .receive].contains(command) { throw .usage("--encrypt is for images that stay; those of a migration are gone with it, and lie in memory without -D", try: "receive without -D, and for the connection --tls, --tls-psk, or --to ssh://HOST") }
            if directIO { throw .usage("--direct-io and --encrypt exclude each other: what is encrypted is not of whole pages") }
            if [.dump, .preDump].contains(command), pluginDirectory != nil { throw .usage("--encrypt and --libdir exclude each other: plugins write images of their own, readable for everybody", try: "without --libdir and $CRIU_LIBS_DIR") }
        }
        if directIO, sendsToPageServer { throw .usage("--direct-io and --page-server exclude each other: the server writes the pages", try: "page-server --direct-io there") }
        if command == .dump, lazyPages, sendsToPageServer { throw .usage("--lazy-pages and --page-server exclude each other", try: "dump --lazy-pages --port N, and lazy-pages --page-server there") }
        if command == .dump, leaveRunning, leaveStopped { throw .usage("--leave-running and --leave-stopped exclude each other") }
        if command == .dump, snapshot {
            if leaveStopped { throw .usage("--snapshot and --leave-stopped exclude each other: a snapshot lets the tree run on") }
            if lazyPages { throw .usage("--snapshot and --lazy-pages exclude each other: pages that come later are those of a tree that stands") }
        }
        if command == .restore {
            if restoreSibling, !restoreDetached {
                throw .usage("--restore-sibling makes sense only with --restore-detached", try: "restore -d -S")
            }
            if backgroundLoad, lazyPages { throw .usage("--background-load and --lazy-pages exclude each other: the first has its own daemon") }
            if backgroundLoad, autoDedup { throw .usage("--background-load and --auto-dedup exclude each other: pages are needed after the restore") }
            if let execCommand {
                if execCommand.isEmpty { throw .usage("--exec-cmd needs a command", try: "restore --exec-cmd -- CMD ARGS") }
                if restoreDetached { throw .usage("--exec-cmd and --restore-detached exclude each other") }
            }
            if let other = joinedNamespaces.first(where: { $0.kind != .net }) { throw .notYet("--join-ns \(other.kind)", "\(other.kind) namespaces") }
            if emptyNetworkNamespace, joinedNamespaces.contains(where: { $0.kind == .net }) {
                throw .usage("--empty-ns net and --join-ns net exclude each other")
            }
        }
        if command == .dump, mountCompatibilityMode { throw .usage("--mntns-compat-mode is for restore") }
    }
}
