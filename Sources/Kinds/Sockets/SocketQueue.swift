package import ImageMessages
import Images
package import Linux

/// What waits in a unix socket to be read: packets of bytes with descriptors (SCM_RIGHTS). sk-queues.img.
package enum SocketQueue {
    package static let image = "sk-queues.img"
    private static let peek: Int32 = 0x2 | 0x40 | 0x20  // MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC
    /// One message holds at most SCM_MAX_FD descriptors (include/net/scm.h).
    private static let maximumDescriptors = 253

    package struct Packet { var bytes: [UInt8], descriptors: [FileDescriptor], sender: [UInt8] = [], credentials: SocketCredentials? }

    /// Looks at the whole queue and takes nothing. SO_PEEK_OFF (socket(7)) moves the window of MSG_PEEK; the target's own setting
    /// is put back. Descriptors found are duplicates of ours, as every peek makes them.
    ///
    /// A stream knows no packets: a read joins what was sent apart, up to and including the part that descriptors hang on. Where
    /// that part begins is found out too, so that they hang on the same byte again. (Peeking at fewer bytes does not tell: the kernel
    /// attaches the descriptors of the next part to them already, net/unix/af_unix.c, unix_stream_read_generic.)
    ///
    /// A datagram of no bytes is seen by one peek only (the kernel marks it), so a second dump does not find it again; at the end of
    /// a seqpacket connection such a packet can't be told from the end, which the number of unread bytes (FIONREAD) decides.
    package static func packets(of socket: FileDescriptor, stream: Bool, ended: Bool = false) throws(SyscallError) -> [Packet] {
        let before = try socket.intOption(SocketOption.peekOffset)
        defer { _ = try? socket.setOption(SocketOption.peekOffset, to: before) }
        var unread: Int32 = 0
        if ended { _ = try? socket.ioctl("FIONREAD", 0x541b, &unread) }
        var found = [Packet](), offset = 0, room = 1 << 16
        func look(_ room: Int) throws(SyscallError) -> SocketMessage? {
            try socket.setOption(SocketOption.peekOffset, to: Int32(truncatingIfNeeded: offset))
            return try socket.receive(room: room, flags: peek)
        }
        // Where the last part of what a peek joins begins: its last byte has nowhere to go, so that part stays out.
        func lengthBeforeLast(_ length: Int) throws(SyscallError) -> Int {
            try socket.setOption(SocketOption.peekOffset, to: Int32(truncatingIfNeeded: offset))
            do throws(SyscallError) { return try socket.receive(room: length - 1, flags: peek, endsInFault: true)?.fullLength ?? 0 }
            catch {
                if error.errno.rawValue == 14 /* EFAULT */ { return 0 }
                throw error
            }
        }
        while var message = try look(room) {
            if message.fullLength > room || (stream && message.fullLength == room) {
                room = max(room * 2, message.fullLength)
                continue
            }
            if message.fullLength == 0 && message.descriptors.isEmpty && (stream || (ended && offset >= Int(unread))) { break }
            if stream && !message.descriptors.isEmpty && message.fullLength > 1 {
                let without = try lengthBeforeLast(message.fullLength)
                if without > 0 {
                    found.append(Packet(bytes: Array(message.bytes[..<without]), descriptors: [], credentials: message.credentials))
                    offset += without
                    guard let rest = try look(message.fullLength - without) else { break }
                    message = rest
                }
            }
            found.append(Packet(bytes: message.bytes, descriptors: message.descriptors, sender: message.sender.unixName, credentials: message.credentials))
            offset += message.bytes.count
        }
        return found
    }

    /// Saves the queue of the socket whose file id is `id`.
    package static func dump(_ socket: FileDescriptor, id: UInt32, stream: Bool, ended: Bool, subject: CheckpointError.Subject, _ context: DumpContext) throws {
        guard context.readsContent else { return }
        for packet in try CheckpointError.about("dump", subject, { try packets(of: socket, stream: stream, ended: ended) }) {
            var entry = SkPacketEntry()
            entry.idFor = id
            entry.length = UInt32(packet.bytes.count)
            if !packet.sender.isEmpty { entry.sender = .init(imageBytes: packet.sender) }
            // Without a sender's pid the kernel made them up (unix(7)); they say nothing.
            if let who = packet.credentials, who.pid != 0 { entry.credentials = [UInt32(bitPattern: who.pid), who.uid, who.gid] }
            if !packet.descriptors.isEmpty {
                guard let save = context.saveFile else {
                    throw CheckpointError("dump", subject, "its queue holds \(packet.descriptors.count) descriptors, which nobody saves")
                }
                var scm = ScmEntry()
                scm.type = 1
                scm.rights = try packet.descriptors.map { try save($0, subject) }
                entry.scm = [scm]
            }
            try context.images.append(image, entry, payload: packet.bytes)
        }
    }

    /// Queued packets of the images, by the file id of the socket they wait in.
    package final class Waiting: DumpState {
        private var packets: [UInt32: [(entry: SkPacketEntry, bytes: [UInt8])]]?
        package init() {}
        package func of(_ id: UInt32, _ context: RestoreContext) throws -> [(entry: SkPacketEntry, bytes: [UInt8])] {
            if let packets { return packets[id] ?? [] }
            var read = [UInt32: [(entry: SkPacketEntry, bytes: [UInt8])]]()
            if context.images.exists(image) {
                var reader = try context.images.reader(image)
                while let entry = try reader.next(SkPacketEntry.self) {
                    read[entry.idFor, default: []].append((entry, try reader.payload(UInt64(entry.length))))
                }
            }
            packets = read
            return read[id] ?? []
        }
    }

    /// Sends the packets again. Those that came from a socket with a name are sent by what `named` gives for it, so that recvfrom(2) tells it.
    package static func restore(
        _ packets: [(entry: SkPacketEntry, bytes: [UInt8])], through anybody: FileDescriptor, to address: SocketAddress?, stream: Bool,
        subject: CheckpointError.Subject, _ context: RestoreContext, named: ([UInt8]) -> FileDescriptor? = { _ in nil }
    ) throws {
        for (entry, bytes) in packets {
            var rights = [FileDescriptor]()
            for scm in entry.scm where scm.type == 1 {
                for id in scm.rights { rights.append(try context.requireDescriptor(of: id)) }
            }
            guard rights.count <= maximumDescriptors else {
                throw CheckpointError("restore", .image(image), "a packet for \(subject) carries \(rights.count) descriptors; the kernel takes \(maximumDescriptors)")
            }
            try CheckpointError.about("restore the queue of", subject) {
                let sender = (address == nil || entry.sender.isEmpty ? nil : named(Array(entry.sender))) ?? anybody
                var sent: Int
                let who = entry.credentials.count == 3 ? SocketCredentials(pid: Int32(truncatingIfNeeded: entry.credentials[0]), uid: entry.credentials[1], gid: entry.credentials[2]) : nil
                do throws(SyscallError) {
                    sent = try sender.send(bytes, descriptors: rights, credentials: who, to: address, flags: 0x40 /* MSG_DONTWAIT */)
                } catch {
                    // ESRCH, EPERM: the sender is no more, or we may not speak for it.
                    guard who != nil, error.errno.rawValue == 3 || error.errno.rawValue == 1 else { throw error }
                    sent = try sender.send(bytes, descriptors: rights, to: address, flags: 0x40)
                }
                while stream && sent < bytes.count { sent += try sender.send(Array(bytes[sent...]), to: address, flags: 0x40) }
            }
        }
    }
}
