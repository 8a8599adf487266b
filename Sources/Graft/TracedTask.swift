public import CLinux
import Glibc
public import Linux

public typealias Registers = user_regs_struct

/// How a traced task stopped or ended, from wait4(2)'s status (ptrace(2), "Stopped states").
public enum TaskEvent: Equatable, Sendable {
    case exited(status: Int32), killed(signal: Int32, status: Int32)
    /// A signal is about to be delivered.
    case signal(Int32)
    /// PTRACE_EVENT_STOP: by PTRACE_INTERRUPT (SIGTRAP), a new task's first stop, or group-stop (the stopping signal).
    case stopped(Int32)
    /// Another PTRACE_EVENT_*.
    case event(Int32)
    /// A system call's entry or exit (PTRACE_O_TRACESYSGOOD).
    case systemCall

    public init(status: Int32) {
        if status & 0x7f == 0 { self = .exited(status: status); return }
        if status & 0xff != 0x7f { self = .killed(signal: status & 0x7f, status: status); return }
        let signal = (status >> 8) & 0xff, event = status >> 16
        self = switch event {
        case 0: signal == SIGTRAP | 0x80 ? .systemCall : .signal(signal)
        case 128 /* PTRACE_EVENT_STOP */: .stopped(signal)
        default: .event(event)
        }
    }
}

/// A task under ptrace, owned by this thread: the kernel takes requests only from the thread that attached. Losing the last
/// reference lets the task run on (detaches); a task that has ended needs no detaching.
public final class TracedTask {
    public let id: ThreadID
    /// Set once the task is known to be gone, or was let go.
    public private(set) var released = false

    private init(attached id: ThreadID) { self.id = id }

    public struct Options: OptionSet, Sendable {
        public let rawValue: Int
        public init(rawValue: Int) { self.rawValue = rawValue }
        public static let systemCallsMarked = Options(rawValue: 1), killWithTracer = Options(rawValue: 0x100000)
        public static let seccompSuspended = Options(rawValue: 0x200000), exitStops = Options(rawValue: 0x40)
    }

    /// PTRACE_SEIZE: attaches without stopping.
    /// - Parameter preferred: options that need more rights than we may have (`seccompSuspended`: CAP_SYS_ADMIN); left out where the kernel refuses them.
    public static func seize(_ id: ThreadID, _ options: Options = [], preferred: Options = []) throws(SyscallError) -> TracedTask {
        if !preferred.isEmpty, let task = try? seize(id, options.union(preferred)) { return task }
        try request("PTRACE_SEIZE", 0x4206, id, 0, options.rawValue)
        return TracedTask(attached: id)
    }
    /// A task that CLONE_PTRACE or PTRACE_O_TRACECLONE has attached to us; it inherits the options.
    public static func adopt(_ id: ThreadID) -> TracedTask { TracedTask(attached: id) }

    public func interrupt() throws(SyscallError) { try Self.request("PTRACE_INTERRUPT", 0x4207, id, 0, 0) }
    public func setOptions(_ options: Options) throws(SyscallError) { try Self.request("PTRACE_SETOPTIONS", 0x4200, id, 0, options.rawValue) }
    /// Lets the task run, delivering `signal` (0: none).
    public func `continue`(signal: Int32 = 0) throws(SyscallError) { try Self.request("PTRACE_CONT", 7, id, 0, Int(signal)) }
    public func continueToSystemCall() throws(SyscallError) { try Self.request("PTRACE_SYSCALL", 24, id, 0, 0) }

    /// Lets go; the task runs on, with `signal` delivered (0: none). Does nothing the second time.
    public func detach(signal: Int32 = 0) {
        if released { return }
        released = true
        _ = try? Self.request("PTRACE_DETACH", 17, id, 0, Int(signal))
    }
    /// SIGKILL, and waits for the end: for a task of our own making, the first of its process.
    public func kill() {
        if released { return }
        _ = Glibc.kill(id.rawValue, SIGKILL)
        while !released, (try? wait()) != nil {}
        released = true
    }
    /// The task is known to have ended: there is nothing to let go.
    public func forget() { released = true }
    deinit { if !released { _ = try? Self.request("PTRACE_DETACH", 17, id, 0, 0) } }

    /// Waits for the task's next stop or end; with `block` false nil means "nothing yet".
    public func wait(block: Bool = true) throws(SyscallError) -> TaskEvent? {
        var status: Int32 = 0
        let found = try Syscall.call(
            "wait4", SYS_wait4, value: &status, at: 1, Int(id.rawValue), 0x4000_0000 /* __WALL */ | (block ? 0 : 1), on: .task(id))
        if found == 0 { return nil }
        let event = TaskEvent(status: status)
        switch event {
        case .exited, .killed: released = true
        default: break
        }
        return event
    }

    /// A task that was born traced by PTRACE_SEIZE's heir stops before its first instruction.
    public func waitForFirstStop() throws(SyscallError) {
        while true {
            switch try wait()! {
            case .stopped: return
            case .exited, .killed: throw SyscallError("wait for a new task", .task(id), ESRCH)
            default: try `continue`()
            }
        }
    }

    /// Lets a stopped task run while `body` works, all its signals held back, and stops it again.
    public func run(while body: () throws -> Void) throws {
        let mask = try signalMask()
        try setSignalMask(.max)
        // Where it stands behind a system call of ours, the kernel does not look for an interrupted one to restart.
        try setRegisters(try registers().restartedByHand())
        try `continue`()
        let outcome = Result { try body() }
        try stop()
        try setSignalMask(mask)
        try outcome.get()
    }

    /// Stops a running task. A signal that comes first is delivered.
    public func stop() throws(SyscallError) {
        try interrupt()
        while true {
            let event = try wait()!
            if case .stopped = event { return }
            if released { throw SyscallError("stop", .task(id), ESRCH) }
            if case .signal(let signal) = event { try `continue`(signal: signal) } else { try `continue`() }
        }
    }

    public func registers() throws(SyscallError) -> Registers {
        var registers = Registers()
        try Syscall.call("PTRACE_GETREGS", SYS_ptrace, value: &registers, at: 3, 12, Int(id.rawValue), 0, on: .task(id))
        return registers
    }
    public func setRegisters(_ registers: Registers) throws(SyscallError) {
        var registers = registers
        try Syscall.call("PTRACE_SETREGS", SYS_ptrace, value: &registers, at: 3, 13, Int(id.rawValue), 0, on: .task(id))
    }

    /// The blocked signals: bit n - 1 is signal n. Inside sigsuspend, pselect and the like this is the saved mask, the one
    /// that holds once the call is over (PTRACE_GETSIGMASK).
    public func signalMask() throws(SyscallError) -> UInt64 {
        var mask: UInt64 = 0
        try Syscall.call("PTRACE_GETSIGMASK", SYS_ptrace, value: &mask, at: 3, 0x420a, Int(id.rawValue), 8, on: .task(id))
        return mask
    }
    public func setSignalMask(_ mask: UInt64) throws(SyscallError) {
        var mask = mask
        try Syscall.call("PTRACE_SETSIGMASK", SYS_ptrace, value: &mask, at: 3, 0x420b, Int(id.rawValue), 8, on: .task(id))
    }

    /// The register set `note` (NT_* of elf.h), at most `size` bytes.
    public func registerSet(_ note: Int, size: Int = 16384) throws(SyscallError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: size)
        let got = try exchange("PTRACE_GETREGSET", 0x4204, note, &bytes)
        bytes.removeLast(size - got)
        return bytes
    }
    public func setRegisterSet(_ note: Int, _ bytes: [UInt8]) throws(SyscallError) {
        var bytes = bytes
        _ = try exchange("PTRACE_SETREGSET", 0x4205, note, &bytes)
    }
    private func exchange(_ name: String, _ number: Int, _ note: Int, _ bytes: inout [UInt8]) throws(SyscallError) -> Int {
        let pid = Int(id.rawValue)
        var vector = unsafe iovec()
        let result: Int = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe vector.iov_base = buffer.baseAddress
            unsafe vector.iov_len = buffer.count
            return unsafe withUnsafeMutablePointer(to: &vector) { unsafe Syscall.raw(SYS_ptrace, number, pid, note, Int(bitPattern: $0)) }
        }
        if result < 0 { throw SyscallError(name, .task(id), Int32(-result)) }
        return unsafe vector.iov_len
    }

    /// Any other request whose data argument is a structure, e.g. PTRACE_GET_RSEQ_CONFIGURATION.
    @discardableResult
    public func request<Value>(_ name: String, _ number: Int, address: Int, _ value: inout Value) throws(SyscallError) -> Int {
        try Syscall.call(name, SYS_ptrace, value: &value, at: 3, number, Int(id.rawValue), address, on: .task(id))
    }
    public func request(_ name: String, _ number: Int, address: Int, bytes: inout [UInt8]) throws(SyscallError) -> Int {
        try Syscall.call(name, SYS_ptrace, bytes: &bytes, at: 3, number, Int(id.rawValue), address, on: .task(id))
    }

    @discardableResult
    private static func request(_ name: String, _ number: Int, _ id: ThreadID, _ address: Int, _ data: Int) throws(SyscallError) -> Int {
        try Syscall.call(name, SYS_ptrace, number, Int(id.rawValue), address, data, on: .task(id))
    }
}
@available(*, unavailable) extension TracedTask: Sendable {}
