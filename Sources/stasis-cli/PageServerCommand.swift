import Checkpoint
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
            if let previous = options.previousImagesDirectory { try Incremental.link(previous, in: session.images) }
            let connection: PageConnection
            if let number = options.pageServerSocket {
                let socket = FileDescriptor(owning: number)
                try socket.control(F_SETFD, 1)
                connection = PageConnection(socket)
                try inBackground(session)
            } else {
                let listener = try listen(session)
                try inBackground(session)
                connection = PageConnection(try listener.accept())
            }
            let source = options.lazyPages ? ImagePageSource(try PageChain(try ImageDirectory(session.images), verifies: options.verifies)) : nil
            try PageServer(connection, images: session.images, frees: options.autoDedup, source: source, session.log).serve()
            return 0
        }
    }

    /// For `dump --lazy-pages`: listens now, before anything is frozen, and serves when the images are whole.
    static func lazyServer(_ session: Session) throws -> (any PageSource) throws -> Void {
        if let number = session.options.pageServerSocket {
            let connection = PageConnection(FileDescriptor(owning: number))
            return { try serve($0, connection, session) }
        }
        let listener = try listen(session)
        return { source in
            session.log.info("the images are whole; waiting to be asked for the rest of the memory")
            session.signalDone()
            try serve(source, PageConnection(try listener.accept()), session)
        }
    }

    private static func serve(_ source: any PageSource, _ connection: PageConnection, _ session: Session) throws {
        let isDone = try PageServer(connection, images: session.images, source: source, session.log).serve()
        if !isDone {
            throw CheckpointError(
                "give pages to", .object("the lazy-pages daemon"), "the connection was cut before it had all of them",
                remedy: "the tree goes on here; what was restored there lacks memory and must not run")
        }
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
    var pageServerPlace: PageServerPlace? {
        guard sendsToPageServer else { return nil }
        return pageServerSocket.map { .socket($0) } ?? .address(address, port: port ?? 0)
    }
}
