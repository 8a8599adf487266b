import Glibc
package import ImageMessages
package import Linux

/// TCP sockets (tcp(7)): unbound, bound, listening.
package enum TCP: InetProtocol {
    static let number: UInt32 = 6

    package static func isFor(type: UInt32, number: UInt32) -> Bool { type == UInt32(SOCK_STREAM.rawValue) && number == Self.number }

    package static func dump(_ file: OpenFile, _ info: InetSocketInfo?, _ entry: inout InetSkEntry, _ context: DumpContext) throws {
        entry.tcpOpts = try TCPOptions.dump(file.descriptor)
        if entry.state == InetState.listening {
            // Connections that wait to be accepted: only accept(2) gives them out.
            if let waiting = info?.readQueue, waiting > 0 {
                guard context.settings.skipInFlight else {
                    throw CheckpointError(
                        "dump", file.subject, "\(waiting) connections to \(entry.local) wait to be accepted, and only accept(2) gives them out",
                        remedy: "dump again when the program has accepted them, or leave them out with --skip-in-flight")
                }
                context.log.warn("\(file.subject): \(waiting) connections to \(entry.local) that wait to be accepted are left out")
            }
        } else if entry.dstPort != 0 {
            throw CheckpointError("dump", file.subject, "TCP connection from \(entry.local) to \(entry.peer): not supported yet")
        } else { entry.backlog = 0 }
    }

    /// All are bound before any listens: a listener does not let others have its port.
    package static func make(_ entries: [InetSkEntry], _ context: RestoreContext) throws {
        var made = [(socket: FileDescriptor, entry: InetSkEntry)]()
        for entry in entries {
            try CheckpointError.about("restore", .inetSocket(entry)) {
                if entry.dstPort != 0 { throw CheckpointError("restore", .inetSocket(entry), "TCP connections are not supported yet") }
                let (socket, inherited) = try InetSocket.create(entry, context)
                context.made(entry.id, socket)
                if inherited { return }
                try InetSocket.bind(socket, entry)
                made.append((socket, entry))
            }
        }
        for (socket, entry) in made {
            try CheckpointError.about("restore", .inetSocket(entry), remedy: "end the program that listens on \(entry.local)") {
                try TCPOptions.restore(entry, on: socket)
                if entry.state == InetState.listening { try socket.listen(Int(entry.backlog)) }
            }
        }
    }

    package static func finish(_ entries: [InetSkEntry], _ context: RestoreContext) throws {
        for entry in entries where !context.isInherited("socket:[\(entry.ino)]") {
            try CheckpointError.about("restore", .inetSocket(entry)) {
                try InetSocket.complete(try context.requireDescriptor(of: entry.id), entry)
            }
        }
    }
}
