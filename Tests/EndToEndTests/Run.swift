import Foundation
import Testing

/// One detached tree with a scratch directory of its own, through dumps and restores. Ends whatever is left of it when it goes.
final class Run {
    let name: String, scratch: String
    private(set) var root: pid_t = 0
    private(set) var step = 0
    private var lastLog: String?
    private(set) var failed = false
    var dumpOptions: [String] = [], restoreOptions: [String] = []
    /// Programs that start the workload, and stasis, in another way (setpriv), with their arguments.
    var workloadStarter: [String] = [], stasisStarter: [String] = []

    init(_ name: String) throws {
        guard geteuid() == 0 else { throw Failure("the end-to-end tests need root") }
        for binary in [Binaries.stasis, Binaries.workload] where !exists(binary) { throw Failure("there is no \(binary)") }
        self.name = name
        scratch = "/tmp/stasis-work.\(UUID().uuidString.prefix(8))"
        // Any uid may come to write its result here.
        for path in [scratch, folder] {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            _ = unsafe chmod(path, 0o1777)
        }
    }

    var folder: String { scratch + "/cwd" }
    var images: String { scratch + "/\(step)" }

    var environment: [String: String] {
        ["WORKLOAD_READY": scratch + "/ready", "WORKLOAD_GO": scratch + "/go", "WORKLOAD_RESULT": scratch + "/result"]
    }

    /// Starts `arguments` of the workload program ("--detached pipes") and takes the pid that it prints.
    func start(_ arguments: [String], environment more: [String: String] = [:]) throws {
        let words = workloadStarter + [Binaries.workload] + arguments
        let command = Command(words[0], Array(words.dropFirst()), in: folder, environment: environment.merging(more) { $1 })
        let result = try command.run()
        guard result.succeeded, let pid = pid_t(result.output.trimmed) else { throw Failure("\(arguments): \(result)") }
        root = pid
    }

    /// Says which task is the root, where a program makes its own (tmux).
    func adopt(_ pid: pid_t) { root = pid }

    func awaitReady() throws {
        _ = eventually(within: 20) { exists(scratch + "/ready") || exists(scratch + "/result") }
        guard exists(scratch + "/ready") else { throw Failure("never ready: \(String.contents(of: scratch + "/result") ?? "")") }
    }

    func dumpCommand(_ more: [String] = [], command: String = "dump") throws -> Command {
        step += 1
        try FileManager.default.createDirectory(atPath: images, withIntermediateDirectories: true)
        lastLog = images + "/dump.log"
        let words = stasisStarter + [Binaries.stasis, command, "-t", "\(root)", "-D", images, "-o", "dump.log", "-v4"] + dumpOptions + more
        return Command(words[0], Array(words.dropFirst()), in: folder)
    }

    func dump(_ more: [String] = [], command: String = "dump") throws {
        let result = try dumpCommand(more, command: command).run(within: 60)
        guard result.succeeded else { throw Failure("dump \(step): \(result)") }
        guard exists(images + "/inventory.img") else { throw Failure("dump \(step) succeeded but wrote no inventory.img") }
    }

    func dumpAndKill(_ more: [String] = []) throws {
        try dump(more)
        guard eventually(within: 3, { kill(root, 0) != 0 }) else { throw Failure("after dump \(step) task \(root) is still there") }
    }

    func restoreCommand(_ more: [String] = []) -> Command {
        lastLog = images + "/restore.log"
        let pidfile = scratch + "/\(step).pid"
        try? FileManager.default.removeItem(atPath: pidfile)
        let words = stasisStarter + [Binaries.stasis, "restore", "-d", "-D", images, "-o", "restore.log", "-v4", "--pidfile", pidfile] + restoreOptions + more
        var command = Command(words[0], Array(words.dropFirst()), in: folder)
        if exists(folder + "/inherited") { command.inherited = folder + "/inherited" }
        return command
    }

    func restore(_ more: [String] = []) throws {
        let result = try restoreCommand(more).run(within: 60)
        guard result.succeeded else { throw Failure("restore \(step): \(result)") }
        let pid = String.contents(of: scratch + "/\(step).pid") ?? "nothing"
        guard pid.trimmed == "\(root)" else { throw Failure("the pidfile of restore \(step) holds \(pid), not \(root)") }
    }

    func go() { _ = FileManager.default.createFile(atPath: scratch + "/go", contents: nil) }

    /// Lets the workload check itself; its own "ok" is the result.
    func checkItself(within seconds: Double = 30) throws {
        go()
        let result = scratch + "/result"
        _ = eventually(within: seconds) { exists(result) || kill(root, 0) != 0 }
        guard eventually(within: 1, { exists(result) }) else {
            let state = Task(root)?.status("State")
            throw Failure("no result; task \(root) is \(state ?? "gone")")
        }
        let text = String.contents(of: result) ?? ""
        guard text == "ok\n" else { throw Failure(text.trimmed) }
        guard eventually(within: 3, { tasks().isEmpty }) else {
            throw Failure("left over after ok: \(tasks().map { "\($0.pid) \($0.commandLine)" })")
        }
    }

    /// The processes of this run: those with its scratch directory in their environment, and those of its session.
    func tasks() -> [Task] { Task.all.filter { $0.session == root || $0.environment.contains("WORKLOAD_READY=\(scratch)/") } }

    func killAll() {
        for _ in 0..<50 {
            let left = tasks().filter { $0.state != "Z" || $0.parent == getpid() }
            if left.isEmpty { return }
            for task in left { kill(task.pid, SIGKILL) }
            usleep(5000)
        }
    }

    /// Starts a workload, detached, and runs `body` when it is ready (`reporting`).
    static func live(_ workload: String, _ arguments: [String] = [], again: String, as label: String, _ body: (Run) throws -> Void) throws {
        try Run(workload).reporting(again: again, as: label) { run in
            try run.start(["--detached", workload] + arguments)
            try run.awaitReady()
            try body(run)
        }
    }

    /// Runs `body`; on failure keeps everything and says where, with the log's end and the command that repeats it.
    /// - Parameter last: false prints the failure instead of recording it, for a run that is going to be repeated.
    func reporting(again: String, as label: String, last: Bool = true, _ body: (Run) throws -> Void) {
        do { try body(self) } catch {
            failed = true
            killAll()
            let kept = "/tmp/stasis-failed/\(label)"
            try? FileManager.default.createDirectory(atPath: "/tmp/stasis-failed", withIntermediateDirectories: true)
            try? FileManager.default.removeItem(atPath: kept)
            try? FileManager.default.moveItem(atPath: scratch, toPath: kept)
            var text = "\(name): \(error)\n"
            if let lastLog, let log = String.contents(of: lastLog.replacingOccurrences(of: scratch, with: kept)) {
                text += log.split(separator: "\n").suffix(15).joined(separator: "\n") + "\n"
            }
            text += "images and logs: \(kept); again: \(again)"
            if last { Issue.record("\(text)") } else { print("failed once, is repeated: \(text)") }
        }
    }

    deinit {
        killAll()
        if !failed { try? FileManager.default.removeItem(atPath: scratch) }
    }
}
