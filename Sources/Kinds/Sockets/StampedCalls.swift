import CLinux
import Glibc
import Graft
import ImageMessages
import Linux

/// Calls that the kernel stamps with who made them: socketpair(2), listen(2) and connect(2) decide what SO_PEERCRED says at the other
/// end for ever (unix(7)). They are made by the process that made them once, with the user and group it had; for a process that is gone a
/// stand-in with its id calls socketpair(2), and where that can't be, we call with its user and group.
struct StampedCalls {
    struct Stamp: Hashable { var pid: Int32, uid: UInt32, gid: UInt32 }
    private let context: RestoreContext
    init(_ context: RestoreContext) { self.context = context }

    /// Pairs made ahead: a batch costs as much with many calls as with one.
    private final class Ahead: DumpState {
        struct Kind: Hashable { var type: Int32, stamp: Stamp }
        var pairs: [Kind: [(FileDescriptor, FileDescriptor)]] = [:]
        init() {}
    }

    /// - Parameter expected: how many pairs of this type and stamp will be asked for, this one included.
    func socketPair(_ type: Int32, _ stamp: Stamp?, expected: Int = 1) throws -> (FileDescriptor, FileDescriptor) {
        guard let stamp else { return try FileDescriptor.socketPair(AF_UNIX, type) }
        let ahead = context.state(of: Ahead.self), kind = Ahead.Kind(type: type, stamp: stamp)
        if let pair = ahead.pairs[kind]?.popLast() { return pair }
        guard let grafted = context.task(ThreadID(stamp.pid))?.grafted ?? DeadProcess.grafted(stamp.pid, context) else {
            return try ourselves(stamp) { () throws(SyscallError) in try FileDescriptor.socketPair(AF_UNIX, type) }
        }
        var batch = grafted.batch(), ends = [Batch.Buffer](), calls = [Batch.Call]()
        call(in: &batch, stamp) { batch in
            for _ in 0..<max(1, min(expected, 64)) {
                ends.append(batch.output(8))
                calls.append(batch.call("socketpair", SYS_socketpair, .init(AF_UNIX), .init(type | O_CLOEXEC), 0, ends.last!.argument, mayFail: true))
            }
        }
        try grafted.run(&batch)
        let made = zip(calls, ends).filter { batch.result($0.0) == 0 }.map { (Int32(bitPattern: batch.word32(of: $0.1, 0)), Int32(bitPattern: batch.word32(of: $0.1, 1))) }
        if made.isEmpty { throw SyscallError("socketpair", .task(grafted.process), Int32(-batch.result(calls[0]))) }
        let process = try FileDescriptor.process(grafted.process)
        var pairs = try made.map { (try FileDescriptor.duplicate($0.0, ofProcess: process), try FileDescriptor.duplicate($0.1, ofProcess: process)) }
        var closing = grafted.batch()
        for pair in made {
            closing.call("close", SYS_close, .init(pair.0))
            closing.call("close", SYS_close, .init(pair.1))
        }
        try grafted.run(&closing)
        let first = pairs.removeFirst()
        ahead.pairs[kind] = pairs
        return first
    }

    func listen(_ socket: FileDescriptor, _ backlog: Int, _ stamp: Stamp?) throws {
        try make("listen", with: [socket], stamp) { batch, numbers in batch.call("listen", SYS_listen, .init(numbers[0]), .init(backlog), mayFail: true) }
            locally: { () throws(SyscallError) in try socket.listen(backlog) }
    }

    /// Returns the id of the process that connected.
    @discardableResult
    func connect(_ socket: FileDescriptor, _ address: SocketAddress, _ stamp: Stamp?) throws -> Int32 {
        // A path through a descriptor of ours leads elsewhere in another process.
        let through = Self.descriptor(in: address)
        return try make("connect", with: [socket] + (through.map { [$0] } ?? []), stamp) { batch, numbers in
            let bytes = numbers.count < 2 ? address.bytes : SocketAddress(unix: Array("/proc/self/fd/\(numbers[1])".utf8) + [0]).bytes
            let name = batch.bytes(bytes)
            return batch.call("connect", SYS_connect, .init(numbers[0]), name.argument, .init(bytes.count), mayFail: true)
        } locally: { () throws(SyscallError) in try socket.connect(address) }
    }

    @discardableResult
    private func make(
        _ name: String, with files: [FileDescriptor], _ stamp: Stamp?, _ add: (inout Batch, [Int32]) -> Batch.Call, locally: () throws(SyscallError) -> Void
    ) throws -> Int32 {
        guard let stamp, let task = context.task(ThreadID(stamp.pid)) else {
            if let stamp { try ourselves(stamp, locally) } else { try locally() }
            return getpid()
        }
        let numbers = try task.receive(files)
        var batch = task.grafted.batch()
        var added: Batch.Call?
        call(in: &batch, stamp) { added = add(&$0, numbers) }
        for number in numbers { batch.call("close", SYS_close, .init(number)) }
        try task.grafted.run(&batch)
        if let added, batch.result(added) < 0 { throw SyscallError(name, .task(task.pid), Int32(-batch.result(added))) }
        return task.pid.rawValue
    }

    /// N of the address "/proc/self/fd/N", as a descriptor of its own.
    private static func descriptor(in address: SocketAddress) -> FileDescriptor? {
        let path = String(decoding: address.unixName.prefix { $0 != 0 }, as: UTF8.self)
        guard path.hasPrefix("/proc/self/fd/"), let number = Int32(path.dropFirst("/proc/self/fd/".count)) else { return nil }
        let copy = fcntl(number, F_DUPFD_CLOEXEC, 3)
        return copy < 0 ? nil : FileDescriptor(owning: copy)
    }

    /// The rights over files stay ours (setfsuid(2)): what had been permitted once is permitted again. The group first and last: changing it needs the rights that the user gives away.
    private func call(in batch: inout Batch, _ stamp: Stamp, _ add: (inout Batch) -> Void) {
        let (uid, gid) = (geteuid(), getegid()), keep = Batch.Argument(-1)
        if stamp.gid != gid { batch.call("setresgid", SYS_setresgid, keep, .init(stamp.gid), keep) }
        if stamp.uid != uid {
            batch.call("setresuid", SYS_setresuid, keep, .init(stamp.uid), keep)
            batch.call("setfsuid", SYS_setfsuid, .init(uid))
        }
        add(&batch)
        if stamp.uid != uid { batch.call("setresuid", SYS_setresuid, keep, .init(uid), keep) }
        if stamp.gid != gid { batch.call("setresgid", SYS_setresgid, keep, .init(gid), keep) }
    }

    private func ourselves<Value>(_ stamp: Stamp, _ body: () throws(SyscallError) -> Value) throws(SyscallError) -> Value {
        let (uid, gid) = (geteuid(), getegid())
        if stamp.gid != gid { try Syscall.call("setresgid", SYS_setresgid, -1, Int(stamp.gid), -1) }
        defer { if stamp.gid != gid { _ = try? Syscall.call("setresgid", SYS_setresgid, -1, Int(gid), -1) } }
        if stamp.uid != uid {
            try Syscall.call("setresuid", SYS_setresuid, -1, Int(stamp.uid), -1)
            try Syscall.call("setfsuid", SYS_setfsuid, Int(uid))
        }
        defer { if stamp.uid != uid { _ = try? Syscall.call("setresuid", SYS_setresuid, -1, Int(uid), -1) } }
        return try body()
    }
}

extension UnixSkEntry {
    /// Who connected or listened at the other end, where the dump tells.
    var peerStamp: StampedCalls.Stamp? {
        hasStasis && stasis.peerPid != 0 ? .init(pid: Int32(bitPattern: stasis.peerPid), uid: stasis.peerUid, gid: stasis.peerGid) : nil
    }
}
