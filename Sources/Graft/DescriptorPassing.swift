import CLinux
import Glibc
public import Linux

/// Descriptors given to another process over a unix socket (SCM_RIGHTS, unix(7)).
public enum DescriptorPassing {
    /// Most descriptors in one message (SCM_MAX_FD, include/net/scm.h).
    public static let most = 253

    /// Sends one byte with the descriptors. They arrive in order, at the lowest free numbers.
    public static func send(_ descriptors: [FileDescriptor], through socket: FileDescriptor) throws(SyscallError) {
        let numbers = descriptors.map(\.number)
        precondition(!numbers.isEmpty && numbers.count <= most)
        var message = words(nameless: 0)
        var control = header(count: numbers.count)
        for number in numbers { control += (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) } }
        control += [UInt8](repeating: 0, count: -control.count & 7)
        var byte: [UInt8] = [0]
        var vector: [UInt64] = [0, 1]
        let result: Int = unsafe control.withUnsafeBytes { controlBytes in
            unsafe byte.withUnsafeMutableBytes { byteBuffer in
                vector[0] = UInt64(UInt(bitPattern: byteBuffer.baseAddress))
                return unsafe vector.withUnsafeBytes { vectorBytes in
                    message[2] = UInt64(UInt(bitPattern: vectorBytes.baseAddress))
                    message[3] = 1
                    message[4] = UInt64(UInt(bitPattern: controlBytes.baseAddress))
                    message[5] = UInt64(controlBytes.count)
                    return unsafe message.withUnsafeBytes { unsafe Syscall.raw(SYS_sendmsg, Int(socket.number), Int(bitPattern: $0.baseAddress), 0x4000 /* MSG_NOSIGNAL */) }
                }
            }
        }
        if result < 0 { throw SyscallError("sendmsg(SCM_RIGHTS)", .fd(socket.number), Int32(-result)) }
    }

    /// struct msghdr as seven words: name, name length, vectors, their count, control, its length, flags.
    static func words(nameless: UInt64) -> [UInt64] { [UInt64](repeating: nameless, count: 7) }
    /// struct cmsghdr: length, SOL_SOCKET, SCM_RIGHTS.
    static func header(count: Int) -> [UInt8] {
        let length = 16 + 4 * count
        return (0..<8).map { UInt8(truncatingIfNeeded: length >> (8 * $0)) } + [1, 0, 0, 0, 1, 0, 0, 0]
    }
}

extension Batch {
    /// A recvmsg(2) that takes `count` descriptors from a socket of the task. They get the lowest free numbers.
    @discardableResult
    public mutating func receiveDescriptors(_ count: Int, from socket: Argument, closeOnExec: Bool = true) -> Buffer {
        let byte = bytes([0])
        let vector = words([byte.address, 1])
        let control = output(16 + (4 * count + 7) & ~7)
        let message = words([0, 0, vector.address, 1, control.address, UInt64(control.count), 0])
        call("recvmsg(SCM_RIGHTS)", SYS_recvmsg, socket, message.argument, closeOnExec ? 0x4000_0000 /* MSG_CMSG_CLOEXEC */ : 0)
        return control
    }
    /// The numbers that a receiveDescriptors got, after the run.
    public func descriptors(in control: Buffer) -> [Int32] {
        let length = Int(word(of: control))
        guard length >= 16, length <= control.count else { return [] }
        return (0..<((length - 16) / 4)).map { Int32(bitPattern: word32(of: control, 4 + $0)) }
    }
}

extension GraftedTask {
    /// Gives descriptors of ours to a task that is being dumped, and returns their numbers there. Should we die, the graft closes them.
    /// - Parameter used: the task's descriptor numbers; it stands still, so the lowest free numbers are known beforehand.
    public func lend(_ descriptors: [FileDescriptor], used: [Int32]) throws(SyscallError) -> [Int32] {
        let taken = Set(used)
        var free = [Int32](), number: Int32 = 0
        while free.count < descriptors.count + 2 {
            if !taken.contains(number) { free.append(number) }
            number += 1
        }
        try setCleanup(closing: free)
        do throws(SyscallError) { return try take(descriptors) } catch {
            try? takeBack(free)
            throw error
        }
    }

    private func take(_ descriptors: [FileDescriptor]) throws(SyscallError) -> [Int32] {
        var batch = self.batch()
        let pair = batch.output(8)
        batch.call("socketpair", SYS_socketpair, 1, .init(2 | 0x80000), 0, pair.argument)  // AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC
        try run(&batch)
        let ends = [0, 1].map { Int32(bitPattern: batch.word32(of: pair, $0)) }
        let pidfd = try FileDescriptor.process(process)
        try DescriptorPassing.send(descriptors, through: try FileDescriptor.duplicate(ends[1], ofProcess: pidfd))
        var take = self.batch()
        let control = take.receiveDescriptors(descriptors.count, from: .init(ends[0]))
        take.call("close", SYS_close, .init(ends[0]))
        take.call("close", SYS_close, .init(ends[1]))
        try run(&take)
        return take.descriptors(in: control)
    }

    /// Takes lent descriptors back.
    public func takeBack(_ numbers: [Int32]) throws(SyscallError) {
        var batch = self.batch()
        for number in numbers { batch.call("close", SYS_close, .init(number), mayFail: true) }
        try run(&batch)
        try setCleanup(closing: [])
    }
}
