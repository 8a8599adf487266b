import CLinux
import Glibc

/// Waiting for several descriptors at once, poll(2).
public enum Poll {
    public static let readable: Int16 = 1, writable: Int16 = 4, error: Int16 = 8, hungUp: Int16 = 16

    /// What each descriptor is ready for, in their order: 0 for nothing. All 0 after `milliseconds`; -1 waits for ever.
    public static func wait(for descriptors: [(FileDescriptor, events: Int16)], milliseconds: Int = -1) throws(SyscallError) -> [Int16] {
        var requests = descriptors.map { pollfd(fd: $0.0.number, events: $0.events, revents: 0) }
        let count = requests.count
        _ = try Syscall.check("poll") {
            unsafe requests.withUnsafeMutableBytes { unsafe Syscall.raw(SYS_poll, Int(bitPattern: $0.baseAddress), count, milliseconds) }
        }
        return requests.map(\.revents)
    }
}
