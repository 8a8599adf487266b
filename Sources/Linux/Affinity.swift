import CLinux
import Glibc

/// The CPUs that a thread may run on: bit n is CPU n (sched_setaffinity(2)).
public enum Affinity {
    /// Every CPU that there is, or will be: what a thread has that nobody has restricted.
    public static let unrestricted = [UInt64](repeating: .max, count: 128)

    public static func own() throws(SyscallError) -> [UInt64] {
        var mask = [UInt8](repeating: 0, count: 1024)
        let got = try Syscall.call("sched_getaffinity", SYS_sched_getaffinity, bytes: &mask, at: 2, 0, mask.count)
        return mask.words(in: 0..<(got & ~7))
    }
    /// - Parameter thread: nil for the calling one.
    public static func set(_ mask: [UInt64], of thread: ThreadID? = nil) throws(SyscallError) {
        var bytes = mask.flatMap(little64)
        try Syscall.call("sched_setaffinity", SYS_sched_setaffinity, bytes: &bytes, at: 2, Int(thread?.rawValue ?? 0), bytes.count, on: thread.map { .task($0) })
    }
    /// Where the calling thread runs just now (getcpu(2)).
    public static func currentCPU() throws(SyscallError) -> Int {
        var cpu: UInt32 = 0
        try Syscall.call("getcpu", SYS_getcpu, value: &cpu, at: 0)
        return Int(cpu)
    }
    /// The mask of one CPU.
    public static func only(_ cpu: Int) -> [UInt64] { [UInt64](repeating: 0, count: cpu / 64) + [1 << UInt64(cpu % 64)] }
}
