import CLinux
import Glibc
public import Linux

/// Makes letting several processes go one step: until `end()` a small process watches, and if we die before that, it kills them all.
///
/// A tracer's death kills what it still traces (PTRACE_O_EXITKILL), but not what it has let go already: a tree would be left in part.
public struct ReleaseGuard: ~Copyable {
    private let guardian: ThreadID
    private let pipe: (reading: FileDescriptor, writing: FileDescriptor)

    /// - Parameter processes: thread-group leaders that stand still; their ids can't be another's yet.
    public init(_ processes: [ThreadID]) throws(SyscallError) {
        let pipe = try FileDescriptor.pipe()
        var handles: [FileDescriptor] = []
        for process in processes { handles.append(try FileDescriptor.process(process)) }
        let numbers = ([pipe.reading.number] + handles.map(\.number)).sorted()
        let answer = unsafe clinux_guard(numbers, Int32(numbers.count), Int32(numbers.firstIndex(of: pipe.reading.number)!))
        guard answer > 0 else { throw SyscallError("clone3", nil, -answer) }
        withExtendedLifetime(handles) {}
        (self.pipe, guardian) = (pipe, ThreadID(answer))
    }

    /// All have been let go: from here on they live without us.
    public consuming func end() {
        try? pipe.writing.write([0])
        _ = try? Syscall.call("wait4", SYS_wait4, Int(guardian.rawValue), 0, Int(bitPattern: UInt(__WALL)), 0)
    }
}
