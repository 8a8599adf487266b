import Checkpoint
import Linux
import Options
import Pages

/// `stasis lazy-pages`: gives restored tasks their memory as they touch it, from local images or from a page server.
enum LazyPagesCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            let listener = try LazyPagesListener(in: session.work)
            let remote = try options.pageServerPlace().map { try RemotePageSource($0) }
            try PageServerCommand.inBackground(session)
            try listener.serve(session.images, session.secrets, remote: remote, verifies: session.options.verifies, session.log)
            try remote?.finish()
            return 0
        }
    }
}
