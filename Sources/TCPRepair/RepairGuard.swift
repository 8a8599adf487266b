import CLinux
import Glibc
import Linux

/// A socket in repair mode is of no use to its program: nothing is sent, nothing can be read. Whoever holds another program's socket in
/// that mode must not die there. The guard is a small process that holds the same sockets; it takes them out of repair mode when
/// this process ends, however it ends (SIGKILL too), without having dismissed it.
///
/// What is left: a SIGKILL for both at once, as by cgroup.kill or the kernel's OOM killer for a whole group; and a race. When a tracer dies, the
/// tasks it had stopped run on while the guard does its work, and a read(2) of theirs in between says EPERM. So the guard is told first: it has
/// real-time priority; the pipe's number is the highest, so that the kernel lets go of it first (the work of exit runs backwards,
/// kernel/task_work.c); and the lock's netlink socket, whose release waits for an RCU grace period (nft_rcv_nl_event), comes before the
/// tasks are let go (exit_notify).
@safe final class RepairGuard {
    private let process: Int32
    private let end: FileDescriptor
    private let memory: Memory
    private var dismissed = false

    /// What the guard reads and stands on; freed after its end.
    @unsafe private struct Memory {
        static let stackSize = 16384
        let stack: UnsafeMutableRawPointer, sockets: UnsafeMutablePointer<Int32>, reuse: UnsafeMutablePointer<Int32>
        func free() {
            unsafe stack.deallocate()
            unsafe sockets.deallocate()
            unsafe reuse.deallocate()
        }
    }

    /// - Parameter sockets: with the value of SO_REUSEADDR that each has.
    init(_ sockets: [(socket: FileDescriptor, reuse: Int32)]) throws(SyscallError) {
        var ends: (Int32, Int32) = (-1, -1)
        try Syscall.call("pipe2", SYS_pipe2, value: &ends, at: 0, Int(O_CLOEXEC))
        let reading = FileDescriptor(owning: ends.0)
        end = Self.moved(FileDescriptor(owning: ends.1))
        let sockets = sockets.sorted { $0.socket.number < $1.socket.number }
        unsafe memory = Memory(
            stack: .allocate(byteCount: Memory.stackSize, alignment: 16), sockets: .allocate(capacity: max(sockets.count, 1)), reuse: .allocate(capacity: max(sockets.count, 1)))
        for (at, one) in sockets.enumerated() {
            unsafe memory.sockets[at] = one.socket.number
            unsafe memory.reuse[at] = one.reuse
        }
        process = unsafe clinux_repair_guard(reading.number, end.number, memory.sockets, memory.reuse, Int32(sockets.count), memory.stack, Memory.stackSize)
        if process < 0 {
            unsafe memory.free()
            dismissed = true
            throw SyscallError("clone", nil, -process)
        }
    }

    /// To the highest number that the limits allow, or nearly.
    private static func moved(_ descriptor: FileDescriptor) -> FileDescriptor {
        for lowest in [16000, 8000, 4000, 1000] {
            if let number = try? descriptor.control(F_DUPFD_CLOEXEC, lowest) { return FileDescriptor(owning: Int32(number)) }
        }
        return descriptor
    }

    /// The sockets are out of repair mode again.
    func dismiss() {
        if dismissed { return }
        dismissed = true
        try? end.write([0])
        _ = try? Syscall.call("wait4", SYS_wait4, Int(process), 0, 0x4000_0000 /* __WALL */)
        unsafe memory.free()
    }
    deinit { dismiss() }
}
