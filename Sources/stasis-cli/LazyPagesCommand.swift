import Checkpoint
import Glibc
import ImageMessages
import Images
import Kinds
import Linux
import Options
import Pages

/// `stasis lazy-pages`: gives restored tasks their memory as they touch it, from local images or from a page server.
enum LazyPagesCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            let listener = try listen(session)
            defer { try? Files.unlink(LazyRestore.socketName, at: session.work.number) }
            let remote = try options.pageServerPlace.map { try RemotePageSource($0) }
            try PageServerCommand.inBackground(session)
            let restorer = try listener.accept()
            let chain = try PageChain(try ImageDirectory(session.images), verifies: options.verifies)
            let daemon = LazyPages(remote ?? ImagePageSource(chain), missing: { try missing($0, chain) }, session.log)
            try daemon.serve(restorer)
            try remote?.finish()
            session.log.info("\(daemon.transferred) pages given, \(daemon.faulted) of them waited for")
            return 0
        }
    }

    private static func listen(_ session: Session) throws -> FileDescriptor {
        try CheckpointError.about("listen on", .file(LazyRestore.socketName), remedy: "a directory that you may write to with -W") {
            let socket = try FileDescriptor.socket(1, 1)
            try? Files.unlink(LazyRestore.socketName, at: session.work.number)
            try socket.bind(SocketAddress(unix: Array("/proc/self/fd/\(session.work.number)/\(LazyRestore.socketName)\0".utf8)))
            try socket.listen(1)
            return socket
        }
    }

    /// What `restore --lazy-pages` leaves out: pages that may come later, in memory without a file that is neither locked nor of huge pages.
    private static func missing(_ task: UInt32, _ chain: PageChain) throws -> [Range<UInt64>] {
        let image = try PageImage(chain, .pagemap, task)
        let mm = try chain.directories[0].single(.mm, task)
        let mappings = mm.vmas.filter(\.canBeLazy).map { $0.start..<$0.end }
        let lazy = (image.mayBeLazy + image.elsewhere).sorted { $0.lowerBound < $1.lowerBound }
        return MemoryTracker.common(lazy, mappings)
    }
}
