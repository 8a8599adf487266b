public import Linux

/// TCP sockets that stand still: in the kernel's repair mode (TCP_REPAIR, tcp(7)) they neither send nor let anybody read, and closing them
/// tells the peer nothing. Losing the value takes them out of that mode, and so does the end of this process, however it ends.
///
/// Needs CAP_NET_ADMIN in the user namespace that owns the sockets' network namespace. Packets that arrive in the meantime are still
/// acknowledged: hold them back (`ConnectionLock`) if the connection is to go on elsewhere.
public final class PausedSockets {
    private var sockets: [(socket: FileDescriptor, reuse: Int32)] = []
    private let watch: Guardian

    public init(_ sockets: [FileDescriptor]) throws(SyscallError) {
        var pairs = [(socket: FileDescriptor, reuse: Int32)]()
        for socket in sockets { pairs.append((socket, try socket.intOption(SocketOption.reuseAddress))) }
        watch = try Guardian(resuming: pairs)
        do throws(SyscallError) {
            for pair in pairs {
                try pair.socket.setOption(Repair.mode, level: Repair.level, to: Repair.on)
                self.sockets.append(pair)
            }
        } catch {
            letGo(probing: false)
            throw error
        }
    }

    /// Lets them go on as if nothing had been.
    /// - Parameter probing: ask the peers at once where they stand (a window probe), which makes up for packets that were lost meanwhile.
    public func resume(probing: Bool = false) { letGo(probing: probing) }

    /// Leaves them in repair mode: whoever closes the last descriptor of one of them then ends it without a word to its peer.
    public func abandon() {
        sockets = []
        watch.dismiss()
    }

    private func letGo(probing: Bool) {
        for (socket, reuse) in sockets {
            _ = try? socket.setOption(Repair.mode, level: Repair.level, to: probing ? Repair.off : Repair.offQuietly)
            // Repair mode has forgotten it.
            if reuse != 0 { _ = try? socket.setOption(SocketOption.reuseAddress, to: reuse) }
        }
        sockets = []
        watch.dismiss()
    }
    deinit { if !sockets.isEmpty { letGo(probing: false) } }
}

/// Numbers of tcp(7) and include/uapi/linux/tcp.h.
enum Repair {
    static let level: Int32 = 6
    static let maximumSegment: Int32 = 2, info: Int32 = 11, mode: Int32 = 19, queue: Int32 = 20, sequence: Int32 = 21, options: Int32 = 22
    static let timestamp: Int32 = 24, window: Int32 = 29
    static let on: Int32 = 1, off: Int32 = 0, offQuietly: Int32 = -1
    static let noQueue: Int32 = 0, receiveQueue: Int32 = 1, sendQueue: Int32 = 2
    static let peek: Int32 = 0x2 | 0x40  // MSG_PEEK | MSG_DONTWAIT
}
