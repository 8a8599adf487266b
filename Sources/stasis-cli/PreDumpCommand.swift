import Checkpoint
import Kinds
import Linux
import Options
import Pages

/// `stasis pre-dump -t PID`.
enum PreDumpCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            guard let tree = options.tree else { preconditionFailure("the command line demands -t") }
            let root = ThreadID(tree)
            var request = Dump.Request(root: root, images: session.images, work: session.work, log: session.log)
            request.settings = DumpSettings(options)
            (request.recipients, request.secrets) = (session.recipients, session.secrets)
            request.plugins = try session.plugins()
            request.pageServer = try options.pageServerPlace()
            request.hook = { try session.hook($0, root: root) }
            request.progress = { session.progress.update(phase: $0, done: $1, total: $2, unit: .bytes) }
            let result = try PreDump.run(request)
            try session.streamer?.give(session.images)
            if options.autoDedup, !options.sendsToPageServer { try DedupCommand.afterDump(session) }
            session.progress.end()
            if options.json {
                Output.line(ResultReport.dump(
                    result.statistics, root: tree, images: session.imagesPath, processes: result.processes, threads: result.threads,
                    bytes: result.bytes, totalMicroseconds: result.totalMicroseconds, command: options.command.rawValue).text)
            }
            return 0
        }
    }
}

/// What stasis starts to hold memory trackers between two runs; not for users.
enum KeepTrackersCommand {
    static func run() -> Int32 {
        do throws(SyscallError) { try TrackerKeeper.run() } catch { return 1 }
        return 0
    }
}
