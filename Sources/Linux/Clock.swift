import Glibc

/// Readings of the clocks, in nanoseconds (clock_gettime(2)).
public enum Clock {
    public static func monotonic() -> UInt64 { read(CLOCK_MONOTONIC) }
    public static func boottime() -> UInt64 { read(CLOCK_BOOTTIME) }
    /// Of the last tick: exact to some milliseconds, for the price of a memory read.
    public static func coarse() -> UInt64 { read(CLOCK_MONOTONIC_COARSE) }
    /// CPU time of the calling thread.
    @discardableResult public static func threadTime() -> UInt64 { read(CLOCK_THREAD_CPUTIME_ID) }
    private static func read(_ clock: Int32) -> UInt64 {
        var time = timespec()
        _ = unsafe clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
