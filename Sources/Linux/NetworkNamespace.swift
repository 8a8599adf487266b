import CLinux
import Glibc

/// Network namespaces (network_namespaces(7)). A thread is in one: sockets that it makes belong there, threads and processes that it makes are
/// born there, and /proc/sys/net shows it; /proc/net shows that of the process's first thread.
public enum NetworkNamespace {
    /// CLONE_NEWNET, which is also what NS_GET_NSTYPE says of one.
    public static let flag: UInt32 = 0x4000_0000

    /// The one that this thread is in.
    public static func current() throws(SyscallError) -> FileDescriptor { try FileDescriptor.open("/proc/thread-self/ns/net", O_RDONLY) }

    /// Opens one by its file; what is none is refused with EINVAL (ioctl_ns(2)).
    public static func open(_ path: String) throws(SyscallError) -> FileDescriptor {
        let file = try FileDescriptor.open(path, O_RDONLY)
        guard (try? file.ioctl("NS_GET_NSTYPE", 0xb703)) == Int(flag) else { throw SyscallError("ioctl(NS_GET_NSTYPE)", .path(path), EINVAL) }
        return file
    }

    static func enter(_ namespace: FileDescriptor) throws(SyscallError) {
        try Syscall.call("setns", SYS_setns, Int(namespace.number), Int(flag), on: .fd(namespace.number))
    }
    /// Back to where this thread has come from: nothing that it would do elsewhere is right.
    static func reenter(_ namespace: FileDescriptor) {
        do throws(SyscallError) { try enter(namespace) } catch { fatalError("cannot return to a network namespace: \(error)") }
    }

    /// Runs `body` with this thread in another network namespace (setns(2)) and comes back, also when it throws.
    /// - Parameter namespace: nil for the one that it is in.
    public static func inside<Value>(_ namespace: FileDescriptor?, _ body: () throws(SyscallError) -> Value) throws(SyscallError) -> Value {
        guard let namespace else { return try body() }
        let stay = try NetworkStay(in: namespace)
        defer { stay.leave() }
        return try body()
    }

    /// The other namespaces of this machine, as far as a process lives in them or ip-netns(8) has given them a name. Those that we may not look at are left out.
    public static func others() throws(SyscallError) -> [FileDescriptor] {
        var seen = [try current().status()], found = [FileDescriptor]()
        let processes = try Files.names(in: "/proc").filter { $0.utf8.allSatisfy { $0 >= 48 && $0 <= 57 } }.map { "/proc/\($0)/ns/net" }
        for path in processes + ((try? Files.names(in: "/run/netns")) ?? []).map({ "/run/netns/\($0)" }) {
            guard let status = try? Files.status(path), !seen.contains(where: { $0.device == status.device && $0.inode == status.inode }), let file = try? open(path) else { continue }
            seen.append(status)
            found.append(file)
        }
        return found
    }
}

/// This thread's stay in a network namespace that is not its own, until `leave` or the end of the value. Other threads stay where they are.
public final class NetworkStay {
    /// Where this thread has come from.
    public let own: FileDescriptor
    public let place: FileDescriptor
    private var isThere = true

    public init(in namespace: FileDescriptor) throws(SyscallError) {
        (own, place) = (try NetworkNamespace.current(), namespace)
        try NetworkNamespace.enter(namespace)
    }

    /// In a new one, which has an interface `lo` that is down (unshare(2)).
    public init() throws(SyscallError) {
        own = try NetworkNamespace.current()
        try Syscall.call("unshare(CLONE_NEWNET)", SYS_unshare, Int(NetworkNamespace.flag))
        do throws(SyscallError) { place = try NetworkNamespace.current() } catch {
            NetworkNamespace.reenter(own)
            throw error
        }
    }

    /// Runs `body` where this thread has come from, and returns.
    public func outside<Value>(_ body: () throws -> Value) rethrows -> Value {
        guard isThere else { return try body() }
        NetworkNamespace.reenter(own)
        defer { NetworkNamespace.reenter(place) }
        return try body()
    }

    public func leave() {
        guard isThere else { return }
        isThere = false
        NetworkNamespace.reenter(own)
    }
    deinit { leave() }
}
