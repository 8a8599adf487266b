import Glibc
package import ImageMessages
import Linux

/// Sockets of the family AF_UNIX (unix(7)): pairs, listeners, connections, datagram sockets, their queues and names.
package enum UnixSocket: OpenFileKind {
    package static var type: FdTypes { .unixsk }

    /// Kinds of socket: SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET.
    static let stream: UInt32 = 1, datagram: UInt32 = 2, sequenced: UInt32 = 5
    /// TCP's state numbers, which unix sockets borrow (include/net/tcp_states.h).
    static let established: UInt32 = 1, closed: UInt32 = 7, listening: UInt32 = 10
    /// Bits of uflags: not part of the tree; was connected to the service that dumped it.
    static let external: UInt32 = 1, service: UInt32 = 2
    /// A plugin connects it.
    static let byPlugin: UInt32 = 4

    package static func claims(_ file: OpenFile) -> Bool {
        file.status.type == S_IFSOCK && (try? file.descriptor.intOption(SocketOption.domain)) == AF_UNIX
    }

    // Dump

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        let state = context.state(of: UnixDump.self)
        if state.dumped.isEmpty { context.late.append { [unowned context] in try finishDump(context) } }
        let info = try CheckpointError.about("dump", file.subject) { try state.info(of: file) }
        var socket = UnixSkEntry()
        socket.id = file.id
        socket.ino = info.inode
        socket.type = UInt32(info.type)
        socket.state = UInt32(info.state)
        socket.flags = file.flags
        socket.uflags = 0
        socket.backlog = info.writeQueue
        socket.peer = try state.peer(of: info, file, context)
        socket.fown = try file.owner()
        socket.opts = try CheckpointError.about("dump", file.subject) { try SocketOptions.dump(file.descriptor, credentials: true, extras: context.purpose == .explain ? [] : ExtraOptions.all) }
        socket.name = .init(imageBytes: info.name ?? [])
        if let name = info.name, let first = name.first, first != 0 { try UnixName.dump(name, file, into: &socket) }
        if info.shutdown != 0 { socket.shutdown = SkShutdown(rawValue: Int(info.shutdown & 3)) ?? .none }
        socket.nsID = context.networkNamespaceID
        if socket.peer != 0, info.peer ?? 0 == 0 {
            // Nobody has accepted it: the other end will ask who connected, and the kernel does not tell it here. The socket's owner.
            (socket.stasis.peerPid, socket.stasis.peerUid, socket.stasis.peerGid) = (UInt32(bitPattern: file.process.rawValue), file.status.uid, file.status.gid)
        } else if let who = try? SocketOptions.peerCredentials(of: file.descriptor), who.pid != 0 {
            socket.stasis.peerPid = UInt32(bitPattern: who.pid)
            socket.stasis.peerUid = who.uid
            socket.stasis.peerGid = who.gid
        }
        state.dumped[info.inode] = (file.subject, file.id)
        if try state.isPlugins(info, peer: socket.peer, file, context) { socket.uflags = byPlugin } else if socket.state == established || (socket.type == datagram && socket.state != listening) {  // others say EINVAL or ENOTCONN
            try SocketQueue.dump(
                file.descriptor, id: file.id, stream: socket.type == stream, ended: info.shutdown & 1 != 0, subject: file.subject, context)
        }
        var entry = FileEntry()
        entry.type = .unixsk
        entry.id = file.id
        entry.usk = socket
        return entry
    }

    /// When every open file is saved: peers that are not part of the tree are refused, or written as external ones.
    private static func finishDump(_ context: DumpContext) throws {
        let state = context.state(of: UnixDump.self)
        try state.checkListeners(context)
        for entry in try state.externalPeers(context) {
            var file = FileEntry()
            file.type = .unixsk
            file.id = entry.id
            file.usk = entry
            try context.add(file)
        }
    }

    // Restore

    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws {
        try context.verify("\(entries.count) unix sockets", "they can be connected as they were") { try UnixRestore().take(entries.map(\.usk), context) }
        for entry in entries where !entry.usk.name.isEmpty && entry.usk.uflags & (external | byPlugin) == 0 && entry.usk.state != established {
            try context.verify("\(CheckpointError.Subject.unixSocket(entry.usk))", "its name is free") { try UnixName.check(entry.usk) }
        }
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        let restore = context.state(of: UnixRestore.self)
        try restore.take(entries.map(\.usk), context)
        try restore.makeSockets(context)
        try restore.bindNames(context)
        try restore.connect(context)
        restore.publish(context)
    }

    /// Queues first: shutdown(2) would keep their data out, filters, buffers and SO_PASSCRED would change it.
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {
        let restore = context.state(of: UnixRestore.self)
        try restore.fillQueues(context)
        try restore.shutDown()
        try restore.setOptions()
        restore.release()
    }
}

extension CheckpointError.Subject {
    static func unixSocket(_ entry: UnixSkEntry) -> Self {
        let name = Array(entry.name)
        let text = name.first == 0 ? "@" + String(decoding: name.dropFirst(), as: UTF8.self) : String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
        return .object("unix socket \(entry.ino)" + (name.isEmpty ? "" : " (\(text))"))
    }
}
