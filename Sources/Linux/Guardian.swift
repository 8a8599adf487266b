import CLinux
import Glibc

/// A small process that acts when this one ends, however it ends (SIGKILL too), without having dismissed it: for steps that must not be left
/// half done. It holds duplicates of the descriptors it needs and nothing else.
///
/// What is left: a SIGKILL for both at once, as by cgroup.kill or the kernel's OOM killer for a whole group; and a race. When a tracer dies, the
/// tasks it had stopped run on while the guardian does its work. So it is told first: it has real-time priority, and the pipe's number is the
/// highest, so that the kernel lets go of it first (the work of exit runs backwards, kernel/task_work.c).
@safe public final class Guardian {
    private let process: Int32
    private let end: FileDescriptor
    private let memory: Memory
    private var dismissed = false

    /// What it reads and stands on; freed after its end.
    @unsafe private struct Memory {
        static let stackSize = 16384
        let stack: UnsafeMutableRawPointer, descriptors: UnsafeMutablePointer<Int32>, numbers: UnsafeMutablePointer<Int32>
        init(count: Int) {
            unsafe stack = .allocate(byteCount: Self.stackSize, alignment: 16)
            unsafe (descriptors, numbers) = (.allocate(capacity: max(count, 1)), .allocate(capacity: max(count, 1)))
        }
        func free() {
            unsafe stack.deallocate()
            unsafe descriptors.deallocate()
            unsafe numbers.deallocate()
        }
    }

    /// Kills the processes: thread-group leaders that stand still, so that their ids can't be another's yet.
    /// - Parameter descriptors: what must not be closed before; none that a signal can be sent through.
    public convenience init(killing processes: [ThreadID], holding descriptors: [FileDescriptor] = []) throws(SyscallError) {
        var handles = descriptors
        for process in processes { handles.append(try FileDescriptor.process(process)) }
        try self.init(handles.map { ($0, nil) })
    }

    /// Takes TCP sockets out of repair mode, in which they are of no use to their program: nothing is sent, nothing can be read.
    /// - Parameter sockets: with the value of SO_REUSEADDR that each has.
    public convenience init(resuming sockets: [(socket: FileDescriptor, reuse: Int32)]) throws(SyscallError) {
        try self.init(sockets.map { ($0.socket, $0.reuse) })
    }

    /// Lets GPU queues run on that stand for a dump (`KFD.pause`).
    /// - Parameter queues: with the task whose they are, which we trace.
    public convenience init(unpausing queues: [(kfd: FileDescriptor, task: ThreadID)]) throws(SyscallError) {
        try self.init(queues.map { ($0.kfd, $0.task.rawValue) }, arePaused: true)
    }

    private init(_ held: [(descriptor: FileDescriptor, number: Int32?)], arePaused: Bool = false) throws(SyscallError) {
        let pipe = try FileDescriptor.pipe()
        end = Self.moved(pipe.writing)
        let held = held.sorted { $0.descriptor.number < $1.descriptor.number }
        unsafe memory = Memory(count: held.count)
        for (at, one) in held.enumerated() {
            unsafe memory.descriptors[at] = one.descriptor.number
            unsafe memory.numbers[at] = one.number ?? 0
        }
        let resumes = !arePaused && held.contains { $0.number != nil }
        process = unsafe clinux_guard(pipe.reading.number, memory.descriptors, resumes ? memory.numbers : nil, arePaused ? memory.numbers : nil, Int32(held.count), memory.stack, Memory.stackSize)
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

    /// The step is done: nothing is to be undone any more.
    public func dismiss() {
        if dismissed { return }
        dismissed = true
        try? end.write([0])
        _ = try? Syscall.call("wait4", SYS_wait4, Int(process), 0, 0x4000_0000 /* __WALL */)
        unsafe memory.free()
    }
    deinit { dismiss() }
}
@available(*, unavailable) extension Guardian: Sendable {}
