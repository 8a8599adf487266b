import Glibc
import Graft
import Linux

/// A process that is gone and whose files below /proc are still open, or somebody's working directory (format README 11.4, PROCFS).
package enum DeadProcess {
    /// Stand-ins by the number they have.
    private final class StandIns: DumpState {
        var tasks: [Int32: TracedTask] = [:]
        var grafted: [Int32: GraftedTask] = [:]
        /// Ids that were tried.
        var taken: Set<Int32> = []
        init() {}
    }

    /// Whether its number is free.
    static func check(_ number: Int32) throws {
        if (try? Files.status("/proc/\(number)")) == nil { return }
        throw CheckpointError("restore", .task(ThreadID(number)), "\(SyscallError("clone3", nil, EEXIST))", remedy: remedy, errno: Errno(EEXIST))
    }
    private static let remedy = "end the process that has this id now, or restore in a pid namespace of its own"

    /// Makes a process with this number, unless there is one of ours already. It stays until `end`.
    static func standIn(for number: Int32, _ context: RestoreContext) throws {
        guard number > 0 else { throw CheckpointError("restore", .image("remap-fpath.img"), "\(number) is no process id") }
        let standIns = context.state(of: StandIns.self)
        if standIns.tasks[number] != nil { return }
        standIns.tasks[number] = try CheckpointError.about(
            "restore", .task(ThreadID(number)), remedy: remedy
        ) { try Stub.start(at: 0x10000, pid: ThreadID(number)) }
        if standIns.tasks.count == 1 { context.cleanup.append { end(context) } }
    }

    /// The stand-in of a process that is gone, ready to make calls; nil when the id is taken.
    static func grafted(_ number: Int32, _ context: RestoreContext) -> GraftedTask? {
        let standIns = context.state(of: StandIns.self)
        if let found = standIns.grafted[number] { return found }
        guard standIns.taken.insert(number).inserted, (try? standIn(for: number, context)) != nil, let task = standIns.tasks[number] else { return nil }
        let made = try? Workspace.make(in: task, at: 0x100000)
        standIns.grafted[number] = made
        return made
    }

    /// Ends them all: when every descriptor and directory is where it belongs, for a dead process's directory can't be entered.
    package static func end(_ context: RestoreContext) {
        let standIns = context.state(of: StandIns.self)
        for (number, task) in standIns.tasks {
            _ = kill(number, SIGKILL)
            reap(task)
        }
        (standIns.tasks, standIns.grafted) = ([:], [:])
    }

    private static func reap(_ task: TracedTask) {
        while let event = try? task.wait() {
            switch event {
            case .exited, .killed: return
            default: try? task.continue()
            }
        }
    }
}
