import Checkpoint
import Glibc
import Images
import Kinds
import Linux
import Options

/// `stasis restore`.
enum RestoreCommand {
    /// A label of a security module that this kernel does not have must not be left out in silence.
    private static func refuseLabel(_ options: Options) throws {
        guard let label = options.lsmProfile, let module = SecurityModule.allCases.first(where: { label.hasPrefix($0.rawValue + ":") }) else { return }
        throw CheckpointError(
            "restore", .object("under the security label \(label)"),
            module.isActive ? "labels of \(module.name) are not supported yet" : "this kernel has no \(module.name), or it is turned off",
            remedy: module.isActive ? "leave --lsm-profile out: the tree runs under the label of stasis" : "restore where \(module.name) is on, or leave --lsm-profile out")
    }

    static func run(_ options: Options) -> Int32 {
        // Before anything of ours is opened, which would get a number that is free.
        let missing = options.inheritedDescriptors.first { fcntl($0.descriptor, F_GETFD) == -1 }
        return Session.run(options) { session in
            if let missing {
                throw CheckpointError("inherit", .object("descriptor \(missing.descriptor) for \(missing.resource)"), "\(Errno(EBADF))", remedy: "open it, without O_CLOEXEC, before stasis is started")
            }
            if options.plan { return try showPlan(session) }
            try refuseLabel(options)
            let isForChecks = try Restore.isForChecks(session.images, session.secrets)
            if options.checkOnly || isForChecks {
                if isForChecks, !options.json { Output.line("These images are of dump --check-only: they are checked, nothing is restored.") }
                return session.show(RestoreCheck.run(try request(session), pidFile: options.pidFile))
            }
            for text in options.debugTexts {
                // The descriptor is the caller's and stays open.
                try? FileDescriptor.open("/proc/self/fd/\(text.descriptor)", O_WRONLY | O_APPEND).write(Array(text.resource.utf8))
            }
            let result = try runRestore(session)
            session.progress.end()
            session.signalDone()
            if options.displayStats { Output.text(ResultReport.displayed(result.statistics)) }
            if options.json {
                Output.line(ResultReport.restore(
                    result.statistics, root: result.root.rawValue, images: session.imagesPath, processes: result.processes,
                    threads: result.threads, totalMicroseconds: result.totalMicroseconds).text)
            }
            if let command = options.execCommand {
                signal(SIGPIPE, SIG_DFL)
                DescriptorLimit.lower()
                throw CheckpointError("start", .object("the command of --exec-cmd"), "\(Program.become(command[0], Array(command.dropFirst())))")
            }
            if !options.restoreDetached { waitForEnd(of: result.root, session.log) }
            return 0
        }
    }

    private static func request(_ session: Session) throws -> Restore.Request {
        var request = Restore.Request(images: session.images, work: session.work, log: session.log)
        request.settings = RestoreSettings(session.options)
        request.secrets = session.secrets
        request.plugins = try session.plugins(restoring: session.images)
        request.progress = { session.progress.update(phase: $0, done: $1, total: $2, unit: $0.hasPrefix("memory") ? .bytes : .tasks) }
        return request
    }

    private static func runRestore(_ session: Session) throws -> Restore.Result {
        var request = try request(session)
        let pidFile = session.options.pidFile.map(PidFile.init)
        request.hook = { point, root in
            // While nothing runs yet: a pidfile that can't be written ends the restore, and nobody misses the pid of a running tree.
            if point == HookPoint.postRestore.rawValue, let root { try pidFile?.write(root) }
            try session.hook(point, root: root)
        }
        do {
            return try Restore.run(request)
        } catch {
            pidFile?.remove()
            throw error
        }
    }

    private static func showPlan(_ session: Session) throws -> Int32 {
        let plan = try Restore.plan(try request(session))
        if session.options.json {
            Output.line(JSON.object([
                .init("command", .string("restore")), .init("ok", .bool(true)), .init("plan", .array(plan.steps.map { .string("\($0)") })),
            ]).text)
        } else {
            for (number, step) in plan.steps.enumerated() { Output.line("\(number + 1). \(step)") }
        }
        return 0
    }

    /// As CRIU does: wait for the root task and don't take its status for ours.
    private static func waitForEnd(of root: ThreadID, _ log: Log) {
        do throws(SyscallError) {
            let end = try Program.wait(for: root)
            log.info("task \(root) ended: \(end)")
        } catch { log.warn("\(error)") }
    }
}

/// `--pidfile`: the root task's pid in decimal. As in CRIU, a file that is there already is an error.
final class PidFile {
    private let path: String
    private var isWritten = false

    init(_ path: String) { self.path = path }

    func write(_ pid: ThreadID) throws {
        guard !isWritten else { return }
        try CheckpointError.about("write", .file(path), remedy: PidFileWords.remedy) {
            let file = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
            isWritten = true
            try file.write(Array("\(pid)".utf8))
        }
    }

    /// Of a restore that failed after all.
    func remove() { if isWritten { try? Files.unlink(path) } }
}

extension RestoreSettings {
    init(_ options: Options) {
        self.init()
        shellJob = options.shellJob
        skipFilePermissions = options.skipFileRwxCheck
        fileLocks = options.fileLocks
        externalUnixSockets = options.externalUnixSockets != .none
        tcpEstablished = options.tcpEstablished
        tcpClose = options.tcpClose
        joinedNetwork = options.joinedNamespaces.last { $0.kind == .net }?.target
        (emptyNetwork, weakSysctls) = (options.emptyNetworkNamespace, options.weakSysctls)
        addressRemaps = options.addressRemaps
        evasiveDevices = options.evasiveDevices
        leaveStopped = options.leaveStopped
        postponesPages = options.lazyPages || options.backgroundLoad
        loadsBehind = options.backgroundLoad
        freesPages = options.autoDedup
        verifies = options.verifies
        sibling = options.restoreSibling
        inherited = options.inheritedDescriptors.map { ($0.descriptor, $0.resource) }
        external = options.externals.map(\.text)
        fileValidation = .init(options.fileValidation)
        unprivileged = options.unprivileged
        cgroups = CgroupSettings(options)
        processor = options.cpuCapabilities.map { ProcessorRules(rawValue: $0.rawValue) }
    }
}
