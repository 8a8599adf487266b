import Checkpoint
import Images
import Kinds
import Linux
import Options

/// `stasis verify DIR`: holds an image directory and its parents against the checksums that the dumps left.
enum VerifyCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            let verification = try Verification.whole(try ImageDirectory(session.images))
            let problems = verification.problems(), count = verification.count
            for error in problems.dropFirst() { session.log.error("\(CheckpointError("verify", error))") }
            if let first = problems.first { throw CheckpointError("verify", first) }
            session.log.info("\(count.files) images and \(count.pages) pages are as they were dumped; \(count.freedPages) pages were freed, \(count.unknownPages) have no checksum")
            if options.json {
                Output.line(JSON.object([
                    .init("command", .string("verify")), .init("ok", .bool(true)), .init("files", .number(count.files)), .init("pages", .number(count.pages)),
                    .init("freed_pages", .number(count.freedPages)), .init("unknown_pages", .number(count.unknownPages)),
                ]).text)
            }
            return 0
        }
    }
}
