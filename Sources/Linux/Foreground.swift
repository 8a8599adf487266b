import CLinux
import Glibc
import Synchronization

/// The process that the user started, waits for and may kill, as distinct from the one that works.
///
/// A SIGKILL can't be put off. So the work is done in a child, and what the user kills does nothing but wait for it: the child dies when its
/// parent is gone (PR_SET_PDEATHSIG, prctl(2)), at once but for the steps that must not be cut in two.
/// What is left: a SIGKILL for the child itself, as by cgroup.kill or the kernel's OOM killer; its name is another one, so killall(1) does not find it.
public enum Foreground {
    /// 0 where the work is done by the process that the user started.
    private static let parent = Atomic<pid_t>(0)

    /// Runs `body` in the child, which shares memory and descriptors, and ends this process as the child ended.
    public static func run(_ body: @escaping () -> Int32) -> Never {
        parent.store(getpid(), ordering: .relaxed)
        // Ctrl-C, Ctrl-Z and a terminal that goes away concern both: the one in front dies of them, the other sees that at a good moment.
        let work = Work {
            Signals.hold([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP])
            allowDeath()
            return body()
        }
        switch perform(work) {
        case .exited(let status): exit(status)
        case .killed(let signal): exit(128 + signal)
        case nil:  // no second process can be had: then without its protection
            parent.store(0, ordering: .relaxed)
            exit(body())
        }
    }

    /// How the child ended; nil where there was none.
    static func perform(_ work: Work) -> Program.End? {
        let status = unsafe clinux_conduct({ unsafe Unmanaged<Work>.fromOpaque($0!).takeUnretainedValue().body() }, Unmanaged.passRetained(work).toOpaque())
        return status < 0 ? nil : Program.End(waitStatus: status)
    }

    /// Puts off our death until `step` is done.
    public static func holding<Result>(_ step: () throws -> Result) rethrows -> Result {
        guard parent.load(ordering: .relaxed) != 0 else { return try step() }
        dieWithParent(0)
        defer { allowDeath() }
        return try step()
    }

    /// Whether it has been killed; for a step that may take long, and can end itself in good order.
    public static var isGone: Bool {
        let parent = parent.load(ordering: .relaxed)
        return parent != 0 && getppid() != parent
    }

    private static func dieWithParent(_ signal: Int32) { _ = try? Syscall.call("prctl(PR_SET_PDEATHSIG)", SYS_prctl, 1, Int(signal)) }
    private static func allowDeath() {
        dieWithParent(SIGKILL)
        if isGone { kill(getpid(), SIGKILL) }
    }
}

final class Work {
    let body: () -> Int32
    init(_ body: @escaping () -> Int32) { self.body = body }
}
