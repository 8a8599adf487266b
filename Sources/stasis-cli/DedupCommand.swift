import Checkpoint
import Images
import Linux
import Options
import Pages

/// `stasis dedup -D DIR`: frees the pages of parent directories that newer ones replace.
enum DedupCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            let freed = try Dedup.run(try PageChain(try ImageDirectory(session.images, session.secrets)), newestOnly: false)
            session.log.info("\(freed) bytes freed in parent images")
            if options.json { Output.line(JSON.object([.init("command", .string("dedup")), .init("ok", .bool(true)), .init("freed_bytes", .number(freed))]).text) }
            return 0
        }
    }

    /// `--auto-dedup`: when the images are whole, what they replace can go.
    static func afterDump(_ session: Session) throws {
        let freed = try Dedup.run(try PageChain(try ImageDirectory(session.images, session.secrets)), newestOnly: true)
        session.log.info("\(freed) bytes freed in parent images")
    }
}
