import Checkpoint
import Kinds
import Linux
import Options

/// An error on its way to the people and programs that asked: to the log, to standard error, as JSON.
struct Failure {
    let details: ResultReport.Failure
    let exitStatus: Int32

    init(_ error: any Error) {
        switch error {
        case let error as CheckpointError:
            details = .init(
                message: "cannot \(error.action) \(error.subject): \(error.cause)", object: "\(error.subject)", cause: error.cause,
                remedy: error.remedy, errno: error.errno?.rawValue)
            exitStatus = 1
        case let error as SyscallError:
            details = .init(message: "\(error)", errno: error.errno.rawValue)
            exitStatus = 1
        case let error as OptionError:
            details = .init(message: error.message, remedy: error.remedy)
            exitStatus = 1
        case let error as ActionScriptError:
            details = .init(message: "\(error)", object: error.script, cause: error.reason)
            exitStatus = error.point == .postDump ? error.exitStatus : 1
        default:
            details = .init(message: "\(error)")
            exitStatus = 1
        }
    }

    /// Writes the error where it is looked for, once each.
    /// - Returns: the exit status.
    func report(json: Bool, command: Command?, log: Log) -> Int32 {
        let text = details.message + (details.remedy.map { "\n  try: " + $0 } ?? "")
        log.error(text)
        // Whoever sent the log to a file still sees why nothing came of it.
        if !log.isOnStandardError, log.level >= .error { Output.error("stasis: \(text)\n") }
        if json { Output.line(ResultReport.failure(details, command: command?.rawValue).text) }
        return exitStatus
    }
}
