import CLinux
import Glibc

/// The CPUs that this thread may run on: bit n is CPU n (sched_setaffinity(2)).
public enum Affinity {
    public static func own() throws(SyscallError) -> [UInt64] {
        var mask = [UInt8](repeating: 0, count: 1024)
        let got = try Syscall.call("sched_getaffinity", SYS_sched_getaffinity, bytes: &mask, at: 2, 0, mask.count)
        return stride(from: 0, to: got & ~7, by: 8).map { at in (0..<8).reduce(0) { $0 | UInt64(mask[at + $1]) << UInt64(8 * $1) } }
    }
    public static func set(_ mask: [UInt64]) throws(SyscallError) {
        var bytes = mask.flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(8 * $0)) } }
        try Syscall.call("sched_setaffinity", SYS_sched_setaffinity, bytes: &bytes, at: 2, 0, bytes.count)
    }
}
