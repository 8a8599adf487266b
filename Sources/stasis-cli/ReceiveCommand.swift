import Checkpoint
import Glibc
import Kinds
import Linux
import Migration
import Options
import Pages

/// `stasis receive`: takes one tree from a source and lets it run.
enum ReceiveCommand {
    static func run(_ options: Options) -> Int32 {
        // Before anything can be written to what is the connection.
        let stream = options.usesStandardStreams ? standardStreams() : nil
        return Session.run(options) { session in
            if let stream {
                guard let received = try migration(session, listener: nil).serve(stream) else { return 0 }
                return done(received, session)
            }
            guard let text = options.listens, let place = MigrationPlace(text) else {
                throw OptionError.usage("--listen \"\(options.listens ?? "")\": no place", try: "unix:PATH, or HOST:PORT")
            }
            let credentials = try place.credentials(options)
            let listener = try MigrationListener(at: place, credentials)
            if options.restoreDetached { try Program.goToBackground { _ in session.signalDone() } } else { session.signalDone() }
            if place.isOpen, credentials == nil { session.log.warn("listening on \(listener.place) without authentication") } else { session.log.info("listening on \(listener.place)") }
            while true {
                let migration = try migration(session, listener: listener)
                do {
                    if let received = try migration.serve(try listener.accept()) { return done(received, session) }
                } catch {
                    // Whoever has not begun to send a tree does not end the wait for who will.
                    guard !migration.hasBegun else { throw error }
                    session.log.warn("\(error)")
                }
            }
        }
    }

    private static func migration(_ session: Session, listener: MigrationListener?) throws -> IncomingMigration {
        let options = session.options, pidFile = options.pidFile.map(PidFile.init)
        return try IncomingMigration(
            images: options.imagesDirectory == "." ? nil : session.images, listener: listener, settings: RestoreSettings(options), movesAddresses: !options.actionScripts.isEmpty, log: session.log,
            hook: { point, root, images in
                if point == HookPoint.postRestore.rawValue, let root { try pidFile?.write(root) }
                try ActionScripts(options.actionScripts, images: images, log: session.log).run(HookPoint(rawValue: point)!, root: root)
            },
            plugins: { try session.plugins(restoring: $0) },
            progress: { session.progress.update(phase: $0, done: $1, total: $2, unit: $0.hasPrefix("memory") ? .bytes : .tasks) })
    }

    private static func done(_ received: IncomingMigration.Received, _ session: Session) -> Int32 {
        session.progress.end()
        session.log.info("task \(received.root) runs")
        if session.options.json, !session.options.usesStandardStreams {
            Output.line(JSON.object([.init("command", .string("receive")), .init("ok", .bool(true)), .init("root", .number(received.root.rawValue))]).text)
        }
        return 0
    }

    /// Standard input and output become the connection; what scripts and we ourselves say there goes to standard error.
    private static func standardStreams() -> PageConnection? {
        func moved(_ number: Int32) -> FileDescriptor? {
            let copy = fcntl(number, F_DUPFD_CLOEXEC, 3)
            return copy < 0 ? nil : FileDescriptor(owning: copy)
        }
        guard let input = moved(STDIN_FILENO), let output = moved(STDOUT_FILENO), let nowhere = try? FileDescriptor.open("/dev/null", O_RDONLY) else { return nil }
        dup2(nowhere.number, STDIN_FILENO)
        dup2(STDERR_FILENO, STDOUT_FILENO)
        return PageConnection(input, output: output)
    }
}
