import Checkpoint
import Images
import Kinds
import Linux
import Options

/// `stasis verify DIR`: holds an image directory and its parents against the checksums that the dumps left.
enum VerifyCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            let directory = try ImageDirectory(session.images, session.secrets), isLocked = directory.isEncrypted && session.secrets.isEmpty
            let verification = try isLocked ? Verification.sealed(directory) : Verification.whole(directory)
            let problems = verification.problems(), count = verification.count
            for error in problems.dropFirst() { session.log.error("\(CheckpointError("verify", error))") }
            if let first = problems.first { throw CheckpointError("verify", first) }
            if isLocked {
                session.log.warn("the images are encrypted: without --decrypt only the outside of \(count.files) images could be looked at, and no page")
            } else {
                session.log.info("\(count.files) images and \(count.pages) pages are as they were dumped; \(count.freedPages) pages were freed, \(count.unknownPages) have no checksum")
            }
            if options.json {
                Output.line(JSON.object([
                    .init("command", .string("verify")), .init("ok", .bool(true)), .init("files", .number(count.files)), .init("decrypted", .bool(!isLocked)), .init("pages", .number(count.pages)),
                    .init("freed_pages", .number(count.freedPages)), .init("unknown_pages", .number(count.unknownPages)),
                ]).text)
            }
            return 0
        }
    }
}
