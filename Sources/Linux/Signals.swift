import Glibc

/// Signals of this thread (sigprocmask(2)).
public enum Signals {
    /// Holds signals back while `body` works.
    public static func holding<Result>(_ signals: [Int32], _ body: () throws -> Result) rethrows -> Result {
        var before = sigset_t()
        hold(signals, &before)
        defer { unsafe _ = sigprocmask(SIG_SETMASK, &before, nil) }
        return try body()
    }

    /// From now on.
    public static func hold(_ signals: [Int32]) {
        var before = sigset_t()
        hold(signals, &before)
    }

    private static func hold(_ signals: [Int32], _ before: inout sigset_t) {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for signal in signals { unsafe sigaddset(&set, signal) }
        unsafe sigprocmask(SIG_BLOCK, &set, &before)
    }
}
