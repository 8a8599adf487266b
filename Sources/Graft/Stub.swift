import CLinux
import Glibc
public import Linux

/// The program that a restore starts from: an ELF file of one page in memory that waits to be told what to do. Every restored
/// task begins as this program, or as a copy of one that did.
public enum Stub {
    /// Bytes of the workspace that stays in a restored task until its last moment: two pages of grafts, then scratch.
    public static let workspaceSize = 1 << 20
    static let programSize: UInt64 = 4096

    /// Makes the program and starts it, stopped under our ptrace, in the graft.
    /// - Parameters:
    ///   - address: where it lives; `programSize + workspaceSize` bytes from here are free in every task to be restored.
    ///   - pid: its id (clone3(2) set_tid), nil for any.
    ///   - sibling: make it a child of our parent instead of ours.
    ///   - flags: CLONE_NEW* flags.
    ///   - keep: a descriptor of ours that it is born with, at the same number.
    public static func start(
        at address: UInt64, pid: ThreadID?, sibling: Bool = false, flags: UInt64 = 0, keeping keep: FileDescriptor? = nil
    ) throws(SyscallError) -> TracedTask {
        let program = try FileDescriptor.memory("stasis-stub", executable: true)
        try program.write(image(at: address))
        let answer = clinux_spawn(program.number, pid?.rawValue ?? 0, sibling ? 1 : 0, flags, keep?.number ?? -1)
        guard answer > 0 else { throw SyscallError("clone3", pid.map { .task($0) }, -answer) }
        let task: TracedTask
        do throws(SyscallError) {
            task = try TracedTask.seize(ThreadID(answer), [.systemCallsMarked, .killWithTracer], preferred: .seccompSuspended)
        } catch {
            _ = kill(answer, SIGKILL)
            throw error
        }
        try task.interrupt()
        while true {
            switch try task.wait()! {
            case .stopped: return task
            case .exited, .killed: throw SyscallError("start the stub", .task(task.id), ESRCH)
            default: try task.continue()
            }
        }
    }

    /// ELF64, one program header, read and execute: `pause` for ever (elf(5)).
    public static func image(at address: UInt64) -> [UInt8] {
        func u16(_ value: UInt16) -> [UInt8] { (0..<2).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
        func u32(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
        func u64(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
        let code: [UInt8] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]  // mov $pause, %eax; syscall; jmp back
        let entry: UInt64 = 64 + 56
        var bytes: [UInt8] = [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        bytes += u16(2) + u16(62) + u32(1) + u64(address + entry) + u64(64) + u64(0) + u32(0)
        bytes += u16(64) + u16(56) + u16(1) + u16(0) + u16(0) + u16(0)
        bytes += u32(1) + u32(5) + u64(0) + u64(address) + u64(address) + u64(entry + UInt64(code.count))
        bytes += u64(entry + UInt64(code.count)) + u64(4096)
        return bytes + code
    }
}
