import Checkpoint
import Cryptography
import Glibc
import Images
import Kinds
import Linux
import Options
import Plugins

/// What dump and restore have in common: the image directory, the work directory, the log, the scripts, the status descriptor.
struct Session {
    let options: Options
    let images: FileDescriptor
    /// --stream: where images go to, or have come from.
    let streamer: ImageStreamer?
    private let mount: DetachedMount?
    let work: FileDescriptor
    /// --encrypt: who may read new images.
    let recipients: ImageRecipients
    /// --decrypt: opens encrypted ones.
    let secrets: ImageSecrets
    let log: Log
    let scripts: ActionScripts
    let progress: Progress = .onTerminal()

    /// Runs `body` in a session; whatever it throws is reported. Answers the exit status.
    static func run(_ options: Options, _ body: (Session) throws -> Int32) -> Int32 {
        var log = Log(level: Log.Level(verbosity: options.verbosity))
        do {
            try Privileges.check(options)
            let session = try Session(options, &log)
            PacketLock.liftStale(session.log)
            do {
                return try body(session)
            } catch {
                session.progress.end()
                throw error
            }
        } catch {
            return Failure(error).report(json: options.json, command: options.command, log: log)
        }
    }

    /// The image directory is opened before going to the work directory, so that both may be relative to where we were called.
    /// - Parameter log: becomes the one of `-o`, as soon as there is one.
    private init(_ options: Options, _ log: inout Log) throws {
        self.options = options
        let images = try Self.directory(options.imagesDirectory, "image directory", remedy: "create it, or name another one with -D")
        (recipients, secrets) = (try options.imageRecipients(), try options.imageSecrets())
        if options.autoDedup, !recipients.isEmpty, !secrets.fit(recipients) {
            throw OptionError.usage("--auto-dedup with --encrypt looks into the new images, too", try: "--decrypt with the secret of one of their recipients")
        }
        work = try options.workDirectory.map { try Self.directory($0, "work directory", remedy: "create it, or name another one with -W") } ?? images
        guard fchdir(work.number) == 0 else { throw SyscallError("fchdir", .path(options.workDirectory ?? options.imagesDirectory), errno) }
        if let path = options.logFile {
            let file = try CheckpointError.about("write", .file(path), remedy: "a writable file for -o") {
                try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, mode: 0o600)
            }
            let number = try file.control(F_DUPFD_CLOEXEC, 3)
            log = Log(level: Log.Level(verbosity: options.verbosity), to: Int32(number))
        }
        if options.stream {
            let memory = try Self.streamed(options)
            streamer = try ImageStreamer(options.command == .restore ? .serve : .capture, in: images)
            if options.command == .restore { try streamer?.take(into: memory.root, secrets) }
            (self.images, mount) = (memory.root, memory.mount)
        } else { (self.images, streamer, mount) = (images, nil, nil) }
        self.log = log
        scripts = ActionScripts(options.actionScripts, images: images, log: log)
        log.info("stasis \(VersionCommand.version), \(options.command.rawValue), images in \(options.imagesDirectory)")
        warnOfKeys()
    }

    private func warnOfKeys() {
        for warning in recipients.recipients.compactMap(\.warning) + secrets.secrets.compactMap(\.warning) { log.warn(warning) }
        if [.restore, .lazyPages, .verify].contains(options.command), !options.decryptionKeys.isEmpty, let directory = try? ImageDirectory(images), directory.exists(.inventory), !directory.isEncrypted {
            log.warn("--decrypt: these images are not encrypted; who can write to \(options.imagesDirectory) could have changed them")
        }
        if !recipients.isEmpty, options.sendsToPageServer, !options.tls, options.tlsSharedKey == nil {
            log.warn("--encrypt: pages go to the page server as they are: --tls for the connection, and --encrypt there for its images")
        }
    }

    /// The images of --stream are in memory.
    private static func streamed(_ options: Options) throws -> (mount: DetachedMount, root: FileDescriptor) {
        if options.previousImagesDirectory != nil { throw OptionError.usage("--stream does not go with --prev-images-dir: a streamer has no parent images", try: "one of them") }
        if options.lazyPages { throw OptionError.usage("--stream does not go with --lazy-pages: who gives the pages later has no images", try: "one of them") }
        return try CheckpointError.about("make", .object("a place for images in memory"), remedy: "run as root, or without --stream") { try DetachedMount.memory() }
    }

    private static func directory(_ path: String, _ what: String, remedy: String) throws -> FileDescriptor {
        try CheckpointError.about("open", .object("\(what) \(path)"), remedy: remedy) {
            try FileDescriptor.open(path, O_RDONLY | O_DIRECTORY)
        }
    }

    /// Our own plugins and those of --libdir.
    /// - Parameter needed: those that a restore's images name; nil for a dump.
    func plugins() throws -> PluginSet { try Self.plugins(options, images: images, log, ownOnly: !recipients.isEmpty) }
    /// For a restore from `images`. Images that can't be read are the restore's to refuse.
    func plugins(restoring images: FileDescriptor) throws -> PluginSet {
        try Self.plugins(options, images: images, log, needed: (try? ImageDirectory(images, secrets).inventory().neededPlugins) ?? .any)
    }
    /// - Parameter ownOnly: those of --libdir would write images that are not encrypted.
    static func plugins(_ options: Options, images: FileDescriptor, _ log: Log, needed: NeededPlugins? = nil, ownOnly: Bool = false) throws -> PluginSet {
        var gpu = CUDAPlugin.Settings()
        (gpu.deviceMap, gpu.patience) = (options.gpuDeviceMap, options.pluginTimeout)
        // What it writes would not be encrypted either.
        if ownOnly { return PluginSet([CUDAPlugin(gpu)], leavingOut: [AMDGPUPlugin.name: "dump without --encrypt: images of plugins are not encrypted"]) }
        let amd = AMDGPUPlugin(AMDGPUSettings { Environment[$0] })
        return try PluginLoader.load(
            options.pluginDirectory, own: [CUDAPlugin(gpu), amd],
            .init(images: images, log: log, patience: options.pluginTimeout, needed: needed))
    }

    /// The image directory's absolute path.
    var imagesPath: String { (try? Files.link(images.procPath)) ?? options.imagesDirectory }

    /// What a check has found. Answers the exit status.
    func show(_ report: CheckReport) -> Int32 {
        progress.end()
        for verdict in report.verdicts where verdict.grade == .fails && !log.isOnStandardError { log.error(verdict.message) }
        Output.line(options.json ? report.json.text : report.text(all: options.verbosity > 2))
        return report.passes ? 0 : 1
    }

    func hook(_ name: String, root: ThreadID?) throws {
        guard let point = HookPoint(rawValue: name) else { preconditionFailure("no such hook point: \(name)") }
        try scripts.run(point, root: root)
    }

    /// `--status-fd`: one zero byte, then closed.
    func signalDone() {
        guard let number = options.statusDescriptor else { return }
        do throws(SyscallError) {
            try FileDescriptor(owning: number).write([0])
        } catch { log.warn("--status-fd: \(error)") }
    }
}

extension DumpSettings.FileValidation {
    init(_ option: FileValidation) { self = option == .filesize ? .size : .buildID }
}
