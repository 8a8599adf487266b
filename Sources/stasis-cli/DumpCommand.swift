import Checkpoint
import Kinds
import Linux
import Options
import Pages

/// `stasis dump -t PID`.
enum DumpCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            guard let tree = options.tree else { preconditionFailure("the command line demands -t") }
            let root = ThreadID(tree)
            if session.options.checkOnly { return session.show(try Dump.check(try request(root, session))) }
            let result = try runDump(root, session)
            if options.autoDedup, !options.sendsToPageServer { try DedupCommand.afterDump(session) }
            session.progress.end()
            if !options.lazyPages { session.signalDone() }
            if options.displayStats { Output.text(ResultReport.displayed(result.statistics)) }
            if options.json {
                Output.line(ResultReport.dump(
                    result.statistics, root: tree, images: session.imagesPath, processes: result.processes, threads: result.threads,
                    bytes: result.bytes, totalMicroseconds: result.totalMicroseconds).text)
            }
            return 0
        }
    }

    private static func request(_ root: ThreadID, _ session: Session) throws -> Dump.Request {
        var request = Dump.Request(root: root, images: session.images, work: session.work, log: session.log)
        request.settings = DumpSettings(session.options)
        (request.recipients, request.secrets) = (session.recipients, session.secrets)
        request.settings.cgroups.rules = try cgroupRules(session.options)
        request.plugins = try session.plugins()
        request.progress = { session.progress.update(phase: $0, done: $1, total: $2, unit: $0.hasPrefix("memory") ? .bytes : .tasks) }
        return request
    }

    /// A later one of a controller takes the place of an earlier one, the option's text that of the file.
    private static func cgroupRules(_ options: Options) throws -> [CgroupPropertyRule] {
        func read(_ text: String, _ origin: String) throws -> [CgroupPropertyRule] {
            do throws(CgroupPropertyRule.Problem) { return try CgroupPropertyRule.parse(text) } catch {
                throw CheckpointError("read", .object(origin), "\(error)", remedy: "write it as criu(8) shows: '\"cpu\":', then ' - \"strategy\": \"merge\"' and ' - \"properties\": [\"cpu.shares\"]'")
            }
        }
        var rules = [CgroupPropertyRule]()
        if let path = options.cgroupPropertiesFile {
            rules = try read(try CheckpointError.about("read", .file(path), remedy: "name a file that you may read with --cgroup-props-file (relative to the work directory)") { try Files.text(path) }, "--cgroup-props-file \(path)")
        }
        let own = try options.cgroupProperties.map { try read($0, "--cgroup-props") } ?? []
        return rules.filter { rule in !own.contains { $0.controller == rule.controller } } + own
    }

    private static func runDump(_ root: ThreadID, _ session: Session) throws -> Dump.Result {
        var request = try request(root, session)
        request.pageServer = try session.options.pageServerPlace()
        if session.options.lazyPages { request.give = try PageServerCommand.lazyServer(session) }
        request.hook = { try session.hook($0, root: root) }
        if let streamer = session.streamer {
            request.handOver = { [ending = request.settings.ending] (_: FrozenTree, _: FrozenPageSource) throws -> DumpSettings.Ending in
                try streamer.give(session.images)
                return ending
            }
        }
        return try Dump.run(request)
    }
}

extension DumpSettings {
    init(_ options: Options) {
        self.init()
        ending = options.leaveRunning || options.snapshot ? .leaveRunning : options.leaveStopped ? .leaveStopped : .kill
        shellJob = options.shellJob
        linkRemap = options.linkRemap
        ghostLimit = options.ghostLimit
        ghostFiemap = options.ghostFiemap
        fileLocks = options.fileLocks
        externalUnixSockets = options.externalUnixSockets != .none
        evasiveDevices = options.evasiveDevices
        (forceIrmap, irmapScanPaths) = (options.forceIrmap, options.irmapScanPaths)
        tcpEstablished = options.tcpEstablished
        tcpClose = options.tcpClose
        skipInFlight = options.skipInFlight
        locksNetwork = options.networkLock != .skip && options.networkLock != .none
        fileValidation = .init(options.fileValidation)
        emptyNetwork = options.emptyNetworkNamespace
        external = options.externals.map(\.text) + options.externalUnixSockets.named
        timeout = Int(options.timeout)
        freezeCgroup = options.freezeCgroup
        previousImages = options.previousImagesDirectory
        postponesPages = options.lazyPages
        tracksMemory = options.trackMemory
        preDumpReads = options.preDumpMode == .read
        snapshots = options.snapshot
        unprivileged = options.unprivileged
        cgroups = CgroupSettings(options)
        processor = options.cpuCapabilities != nil
        digests = options.digest
        compression = options.compression
        directIO = options.directIO
    }
}

extension CgroupSettings {
    init(_ options: Options) {
        self.init()
        mode = Mode(rawValue: options.manageCgroups.rawValue) ?? .soft
        for root in options.cgroupRoots { roots[root.controller ?? ""] = root.path }
        yard = options.cgroupYard
        onlyControllers = options.cgroupControllers
    }
}
