import Glibc
package import Kinds
package import Linux

/// Processes that use an NVIDIA GPU, with the help of NVIDIA's program `cuda-checkpoint` (github.com/NVIDIA/cuda-checkpoint):
///
/// - before the freeze, `lock`: calls into CUDA wait, work that was submitted is completed;
/// - after the freeze, `checkpoint`: the driver brings the GPU's memory into the process and lets go of the device. It does so in a thread of the
///   process (`--get-restore-tid`), which must run for it, alone. What follows is an ordinary dump;
/// - on a restore, and where the tree goes on after a dump, `restore` and `unlock`, in the same way.
///
/// A process that does not use the GPU is not touched, and a restore of such a tree needs none of this. Nor is a process that somebody has
/// checkpointed by hand before: it stays as it is.
package final class CUDAPlugin: Plugin {
    package static let name = "cuda_plugin"
    /// The first driver whose locks have a time limit.
    static let firstDriver = 570

    package var name: String { Self.name }
    package let hooks: Set<PluginHook> = [.pauseDevices, .checkpointDevices, .resumeDevices]

    package struct Settings: Sendable {
        package var program = "cuda-checkpoint"
        /// "OLD=NEW,OLD=NEW": the UUIDs of the dump's GPUs and of those that take their place (--gpu-device-map).
        package var deviceMap: String?
        /// Seconds that one run of the program may take.
        package var patience: UInt64 = 300
        package init() {}
    }
    private enum Action: String { case lock, checkpoint, restore, unlock }
    /// What `--get-state` prints.
    private enum State: String { case running, locked, checkpointed, failed }
    /// A process on the GPU that was running, with the thread that does the driver's work; where it stands now.
    private struct Use { let process: ThreadID, thread: ThreadID, state: State }

    private let settings: Settings
    private let isThere: Bool
    private var session: PluginSession?
    private var uses: [Use] = []

    package init(_ settings: Settings = Settings()) {
        self.settings = settings
        isThere = Program.find(settings.program) != nil
    }

    package var obstacle: String? { isThere ? nil : "the program \(settings.program) is not in PATH" }
    package var remedy: String? { isThere ? nil : "have NVIDIA's program \(settings.program) in PATH, which takes the process off the GPU" }

    /// The driver lets go of the devices before the process is looked at.
    package func mayTake(_ hook: PluginHook, _ name: String) -> Bool { isThere && (hook == .dumpFile || hook == .claimMapping) && name.hasPrefix("/dev/nvidia") }

    package func begin(_ stage: PluginStage, _ session: PluginSession) throws -> Bool {
        self.session = session
        switch stage {
        case .dump: return isThere
        case .preDump: return false  // the GPU's memory is no process's before `checkpoint`
        case .restore: return isThere && session.needs(name)
        }
    }

    package func end(_ stage: PluginStage, _ ending: PluginEnding) throws {
        guard stage == .dump, ending.treeRuns else { return }
        var first: (any Error)?
        for use in uses.reversed() { do { try release(use) } catch { first = first ?? error } }
        uses = []
        if let first { throw first }
    }

    // MARK: hooks

    package func pauseDevices(of process: ThreadID) throws {
        guard Self.mayUseGPU(process), let thread = try restoreThread(of: process) else { return }
        let state = try state(of: process)
        if state == .failed { throw error(process, "has lost its GPU (cuda-checkpoint --get-state: failed)") }
        guard state == .running else {
            session?.log.info("task \(process): CUDA is \(state.rawValue) already and stays so")
            return
        }
        // Noted before it is done: a lock that fails half-way is taken back, too.
        uses.append(Use(process: process, thread: thread, state: .locked))
        let limit = session?.timeout ?? 10
        try run(.lock, process, limit > 0 ? ["--timeout", "\(limit * 1000)"] : [])
        session?.use(name)
    }

    package func checkpointDevices(of process: ThreadID) throws {
        guard let index = uses.firstIndex(where: { $0.process == process }) else { return }
        uses[index] = Use(process: process, thread: uses[index].thread, state: .checkpointed)
        try session?.letRun(uses[index].thread, process) { try run(.checkpoint, process) }
    }

    package func resumeDevices(of process: ThreadID) throws {
        guard Self.mayUseGPU(process), let thread = try restoreThread(of: process) else { return }
        try session?.letRun(thread, process) {
            try run(.restore, process, settings.deviceMap.map { ["--device-map", $0] } ?? [])
            try run(.unlock, process)
        }
    }

    /// Back to where the process was. A failed step leaves it nobody knows where, so it is asked.
    private func release(_ use: Use) throws {
        if (try? TaskStat.of(use.process)) == nil { return }  // it has ended, and its hold on the GPU with it
        try session?.letRun(use.thread, use.process) {
            var state = try state(of: use.process)
            if state == .checkpointed {
                try run(.restore, use.process)
                state = .locked
            }
            if state == .locked { try run(.unlock, use.process) }
            if state == .failed { throw error(use.process, "has lost its GPU (cuda-checkpoint --get-state: failed)") }
        }
    }

    // MARK: the program

    /// Whether the driver's library is mapped: without it there is no need to start a program that asks.
    private static func mayUseGPU(_ process: ThreadID) -> Bool {
        ((try? Mapping.all(of: process, withFlags: false)) ?? []).contains { $0.name.split(separator: "/").last?.hasPrefix("libcuda.so") ?? false }
    }

    /// nil for a process that has the library but no CUDA context.
    private func restoreThread(of process: ThreadID) throws -> ThreadID? {
        let (end, output) = try start(["--get-restore-tid", "--pid", "\(process)"], process)
        guard end == .exited(0), let number = Int32(output) else { return nil }
        return ThreadID(number)
    }

    private func state(of process: ThreadID) throws -> State {
        let (end, output) = try start(["--get-state", "--pid", "\(process)"], process)
        guard end == .exited(0), let state = State(rawValue: output) else { throw error(process, "is in an unknown state (\(settings.program) --get-state: \(output), \(end))") }
        return state
    }

    private func run(_ action: Action, _ process: ThreadID, _ more: [String] = []) throws {
        let (end, output) = try start(["--action", action.rawValue, "--pid", "\(process)"] + more, process)
        guard end == .exited(0) else { throw error(process, "can't be brought through \(action.rawValue) (\(settings.program): \(output.isEmpty ? "\(end)" : output))") }
        session?.log.debug("task \(process): CUDA \(action.rawValue)")
    }

    private func start(_ words: [String], _ process: ThreadID) throws -> (Program.End, output: String) {
        do throws(SyscallError) {
            guard let (end, output) = try Program.output(of: settings.program, words, within: settings.patience) else {
                throw SyscallError(settings.program, nil, ETIMEDOUT)
            }
            let text = String(decoding: output, as: UTF8.self)
            return (end, String(text.drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed()))
        } catch {
            if error.errno == Errno(ETIMEDOUT) { throw self.error(process, "keeps \(settings.program) \(words.joined(separator: " ")) waiting for more than \(settings.patience) s (--plugin-timeout)") }
            throw error
        }
    }

    private func error(_ process: ThreadID, _ what: String) -> PluginError { PluginError(name, "found that CUDA of task \(process) \(what)") }
}
