import Glibc

/// Readings of the clocks, in nanoseconds (clock_gettime(2)).
public enum Clock {
    public static func monotonic() -> UInt64 { read(CLOCK_MONOTONIC) }
    public static func boottime() -> UInt64 { read(CLOCK_BOOTTIME) }
    private static func read(_ clock: Int32) -> UInt64 {
        var time = timespec()
        _ = unsafe clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
