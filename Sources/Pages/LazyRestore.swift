import Glibc
import ImageMessages
import Kinds
package import Linux

/// A restore's end of the connection to the lazy-pages daemon (format README, 10.6): hands over, for each process, its id and the
/// userfaultfd through which its missing pages are filled.
package final class LazyRestore {
    package static let socketName = "lazy-pages.socket"
    /// "RSTF", read as a little-endian word.
    package static let allHandedOver: UInt32 = 0x5253_5446
    private let socket: FileDescriptor

    package init(socketIn directory: FileDescriptor) throws {
        socket = try CheckpointError.about(
            "reach", .object("the lazy-pages daemon (\(Self.socketName))"), remedy: "start stasis lazy-pages with the same -D and -W first"
        ) {
            let socket = try FileDescriptor.socket(1, 1)
            try socket.connect(SocketAddress(unix: Array("/proc/self/fd/\(directory.number)/\(Self.socketName)\0".utf8)))
            return socket
        }
    }

    init(through socket: FileDescriptor) { self.socket = socket }

    /// A process, standing still, whose memory is not there yet and watched by `fault`.
    package func add(_ pid: Int32, _ fault: Userfault) throws(SyscallError) {
        try send(pid)
        try socket.send([0], descriptors: [fault.descriptor])
    }
    /// A process that has no memory any more.
    package func skip(_ pid: Int32) throws(SyscallError) { try send(-pid) }

    package func finish() throws {
        try CheckpointError.about("reach", .object("the lazy-pages daemon")) { try send(Int32(bitPattern: Self.allHandedOver)) }
    }

    private func send(_ number: Int32) throws(SyscallError) { try socket.send(little32(UInt32(bitPattern: number))) }
}
