import CLinux
import Glibc

/// Bytes that nobody can guess (getrandom(2)): it waits for the kernel to have some, and can't fail for so few.
public enum Random {
    public static func bytes(_ count: Int) -> [UInt8] {
        precondition(count <= 256, "more than getrandom(2) gives at once")
        var bytes = [UInt8](repeating: 0, count: count)
        guard let got = try? Syscall.call("getrandom", SYS_getrandom, bytes: &bytes, at: 0, count, 0), got == count else { preconditionFailure("the kernel gives no random bytes") }
        return bytes
    }
}
