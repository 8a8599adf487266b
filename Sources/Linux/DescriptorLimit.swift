import CLinux
import Glibc

/// How many descriptors this process may have, RLIMIT_NOFILE (getrlimit(2)).
public enum DescriptorLimit {
    /// What they were when this was first asked.
    private static let atStart: (soft: UInt64, hard: UInt64) = {
        var limits: (soft: UInt64, hard: UInt64) = (0, 0)
        _ = try? Syscall.call("prlimit64", SYS_prlimit64, value: &limits, at: 3, 0, Int(RLIMIT_NOFILE.rawValue), 0)
        return limits
    }()

    /// Raises the soft limit to the hard one: a conductor holds the descriptors of a whole tree.
    public static func raise() { set(atStart.hard) }

    /// Puts the soft limit back, for a program that takes our place.
    public static func lower() { set(atStart.soft) }

    private static func set(_ soft: UInt64) {
        guard atStart.hard > 0 else { return }
        var limits = (soft, atStart.hard)
        _ = try? Syscall.call("prlimit64", SYS_prlimit64, value: &limits, at: 2, 0, Int(RLIMIT_NOFILE.rawValue), 0)
    }

    /// Makes the table hold so many descriptors, while nobody shares it with this thread: where somebody does, it waits each time that it doubles until
    /// no CPU reads the old one any more, 7 ms on an idle machine (synchronize_rcu in fs/file.c, expand_fdtable). It never shrinks.
    public static func makeRoom(for count: Int) {
        guard let highest = try? Syscall.call("fcntl(F_DUPFD_CLOEXEC)", SYS_fcntl, 2, Int(F_DUPFD_CLOEXEC), count) else { return }
        _ = try? Syscall.call("close", SYS_close, highest)
    }
}
