import Checkpoint
import Cryptography
import Glibc
import Images
import Kinds
import Linux
import Options
import Pages

/// `stasis page-server`: takes the pages of a dump elsewhere into the image directory; with --lazy-pages gives the pages of images.
enum PageServerCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            let credentials = try options.credentials()
            if let previous = options.previousImagesDirectory { try Incremental.link(previous, in: session.images) }
            let socket: FileDescriptor
            if let number = options.pageServerSocket {
                socket = FileDescriptor(owning: number)
                try socket.control(F_SETFD, 1)
                try inBackground(session)
            } else {
                let listener = try listen(session)
                try inBackground(session)
                socket = try listener.accept()
            }
            let connection = try secure(socket, by: credentials)
            let source = options.lazyPages ? ImagePageSource(try PageChain(try ImageDirectory(session.images, session.secrets), verifies: options.verifies)) : nil
            try PageServer(connection, images: session.images, compression: options.compression, directly: options.directIO, frees: options.autoDedup, recipients: session.recipients, secrets: session.secrets, source: source, session.log).serve()
            connection.output.sayEnd()
            return 0
        }
    }

    /// For `dump --lazy-pages`: listens now, before anything is frozen, and serves when the images are whole.
    static func lazyServer(_ session: Session) throws -> (any PageSource) throws -> Void {
        let credentials = try session.options.credentials()
        if let number = session.options.pageServerSocket {
            let socket = FileDescriptor(owning: number)
            return { try serve($0, secure(socket, by: credentials), session) }
        }
        let listener = try listen(session)
        return { source in
            session.log.info("the images are whole; waiting to be asked for the rest of the memory")
            session.signalDone()
            try serve(source, secure(try listener.accept(), by: credentials), session)
        }
    }

    /// The end that was connected to.
    private static func secure(_ socket: FileDescriptor, by credentials: TLSCredentials?) throws -> PageConnection {
        let whose = InetAddress(ofPeer: socket).map { "the connection from \($0)" } ?? "the connection"
        return try CheckpointError.about("serve", .object(whose)) { PageConnection(try credentials?.accept(socket) ?? socket) }
    }

    private static func serve(_ source: any PageSource, _ connection: PageConnection, _ session: Session) throws {
        let isDone = try PageServer(connection, images: session.images, source: source, session.log).serve()
        if !isDone {
            throw CheckpointError(
                "give pages to", .object("the lazy-pages daemon"), "the connection was cut before it had all of them",
                remedy: "the tree goes on here; what was restored there lacks memory and must not run")
        }
        connection.output.sayEnd()
    }

    private static func listen(_ session: Session) throws -> FileDescriptor {
        let (listener, port) = try PageServerPlace.address(session.options.address, port: session.options.port ?? 0).listen()
        session.log.info("listening on port \(port)")
        if session.options.port ?? 0 == 0 { Output.line("listening on port \(port)") }
        return listener
    }

    /// Says that it is ready, from the background where that was asked for.
    static func inBackground(_ session: Session) throws {
        let pidFile = session.options.pidFile.map(PidFile.init)
        if session.options.restoreDetached {
            try Program.goToBackground { pid in
                try? pidFile?.write(pid)
                session.signalDone()
            }
        } else {
            try pidFile?.write(.current)
            session.signalDone()
        }
    }
}

extension Options {
    func pageServerPlace() throws -> PageServerPlace? {
        guard sendsToPageServer else { return nil }
        let credentials = try credentials()
        return pageServerSocket.map { .socket($0, credentials, name: address) } ?? .address(address, port: port ?? 0, credentials)
    }
}
