package import Linux

/// The moments of a dump or restore at which action scripts run; names as in CRTOOLS_SCRIPT_ACTION (criu(8), --action-script).
package enum HookPoint: String, Sendable, CaseIterable {
    case preStream = "pre-stream"
    case preDump = "pre-dump"
    case postDump = "post-dump"
    case preRestore = "pre-restore"
    case setupNamespaces = "setup-namespaces"
    case postSetupNamespaces = "post-setup-namespaces"
    case postRestore = "post-restore"
    case preResume = "pre-resume"
    case postResume = "post-resume"
    case networkLock = "network-lock"
    case networkUnlock = "network-unlock"
    case statusReady = "status-ready"

    /// From `pre-resume` on a restore can't be taken back, and a lock that can't be lifted must not stop the tasks that wait
    /// behind it: there a failure is only logged.
    var endsOnFailure: Bool {
        switch self {
        case .preResume, .postResume, .networkUnlock, .statusReady: false
        case .preStream, .preDump, .postDump, .preRestore, .setupNamespaces, .postSetupNamespaces, .postRestore, .networkLock: true
        }
    }
}

/// "action script '/etc/backup' failed at post-dump: exit status 5".
package struct ActionScriptError: Error, Equatable, CustomStringConvertible {
    package let script: String
    package let point: HookPoint
    package let reason: String
    /// What a dump exits with when its post-dump script failed; 255 where there is no status.
    package let exitStatus: Int32
    package var description: String { "action script '\(script)' failed at \(point.rawValue): \(reason)" }
}

/// The programs of `--action-script`. As in CRIU they are executed as they are, without a shell and without arguments, with the
/// work directory as the current one; the one given last runs first; all of them run, even if one fails.
package struct ActionScripts: Sendable {
    private let scripts: [String]
    private let images: FileDescriptor
    private let log: Log

    /// - Parameter images: the image directory, which the scripts reach through our /proc/PID/fd.
    package init(_ scripts: [String], images: FileDescriptor, log: Log) {
        self.scripts = scripts
        self.images = images
        self.log = log
    }

    /// Runs all scripts for `point` and waits for them.
    /// - Parameter root: the root task's pid, once it is known.
    /// - Throws: the first failure, where failing there ends the dump or restore.
    package func run(_ point: HookPoint, root: ThreadID? = nil) throws(ActionScriptError) {
        guard !scripts.isEmpty else { return }
        log.info("running \(point.rawValue) scripts")
        let environment = [
            "CRTOOLS_SCRIPT_ACTION=\(point.rawValue)",
            "CRTOOLS_IMAGE_DIR=/proc/\(ThreadID.current)/fd/\(images.number)",
        ] + (root.map { ["CRTOOLS_INIT_PID=\($0)"] } ?? [])
        var first: ActionScriptError?
        for script in scripts.reversed() {
            do throws(ActionScriptError) {
                try run(script, at: point, environment)
            } catch {
                if point.endsOnFailure, first == nil { first = error } else { log.warn("\(error)") }
            }
        }
        if let first { throw first }
    }

    private func run(_ script: String, at point: HookPoint, _ environment: [String]) throws(ActionScriptError) {
        let end: Program.End
        do throws(SyscallError) {
            end = try Program.wait(for: Program.start(script, adding: environment))
        } catch {
            throw ActionScriptError(script: script, point: point, reason: "\(error)", exitStatus: 255)
        }
        guard end != .exited(0) else { return }
        let status: Int32 = if case .exited(let status) = end { status } else { 255 }
        throw ActionScriptError(script: script, point: point, reason: "\(end)", exitStatus: status)
    }
}
