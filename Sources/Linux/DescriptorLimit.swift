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
