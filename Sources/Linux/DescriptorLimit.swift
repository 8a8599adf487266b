import CLinux
import Glibc

/// How many descriptors this process may have, RLIMIT_NOFILE (getrlimit(2)).
public enum DescriptorLimit {
    /// Raises the soft limit to the hard one: a conductor holds the descriptors of a whole tree. Answers what it was.
    @discardableResult
    public static func raise() -> UInt64 {
        var limits: (soft: UInt64, hard: UInt64) = (0, 0)
        guard (try? Syscall.call("prlimit64", SYS_prlimit64, value: &limits, at: 3, 0, Int(RLIMIT_NOFILE.rawValue), 0)) != nil else { return 0 }
        set(limits.hard, hard: limits.hard)
        return limits.soft
    }

    /// Makes the table hold so many descriptors, while this process has one thread: with more, each time that it doubles waits until no CPU reads the old one
    /// any more, 7 ms on an idle machine (synchronize_rcu in fs/file.c, expand_fdtable). It never shrinks.
    public static func makeRoom(for count: Int) {
        guard let highest = try? Syscall.call("fcntl(F_DUPFD_CLOEXEC)", SYS_fcntl, 2, Int(F_DUPFD_CLOEXEC), count) else { return }
        _ = try? Syscall.call("close", SYS_close, highest)
    }

    /// Puts the soft limit back, for a program that takes our place.
    public static func lower(to soft: UInt64) {
        var limits: (soft: UInt64, hard: UInt64) = (0, 0)
        guard soft > 0, (try? Syscall.call("prlimit64", SYS_prlimit64, value: &limits, at: 3, 0, Int(RLIMIT_NOFILE.rawValue), 0)) != nil else { return }
        set(soft, hard: limits.hard)
    }

    private static func set(_ soft: UInt64, hard: UInt64) {
        var limits: (soft: UInt64, hard: UInt64) = (soft, hard)
        _ = try? Syscall.call("prlimit64", SYS_prlimit64, value: &limits, at: 2, 0, Int(RLIMIT_NOFILE.rawValue), 0)
    }
}
