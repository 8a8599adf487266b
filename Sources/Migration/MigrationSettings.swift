package import Checkpoint
package import Kinds

/// What a migration is asked for.
public struct MigrationSettings: Sendable {
    /// What to do with a tree that writes its memory faster than the connection takes it. With `postCopy` it is moved without the rest of
    /// its memory, which follows; with no rounds, too, it is moved so from the start.
    public enum WhenTooBusy: String, Sendable, CaseIterable { case giveUp = "give-up", goOn = "go-on", postCopy = "post-copy" }
    /// How long the tree may stand still for the last of its memory, ms.
    public var maxDowntime: UInt32 = 300
    /// Rounds of memory before the freeze; 0 sends everything from the frozen tree.
    public var maxRounds = 30
    public var whenTooBusy = WhenTooBusy.giveUp
    /// Ends after the checks.
    public var checksOnly = false
    /// For how long an outcome that is in doubt is asked for, seconds.
    public var patience = 30
    package var dump = DumpSettings()

    public init() {}
    /// TCP connections go with the tree.
    public var tcpEstablished: Bool { get { dump.tcpEstablished } set { dump.tcpEstablished = newValue } }
    /// The tree's session or terminal belongs to a shell outside.
    public var shellJob: Bool { get { dump.shellJob } set { dump.shellJob = newValue } }
    public var fileLocks: Bool { get { dump.fileLocks } set { dump.fileLocks = newValue } }
}

/// How a migration goes on, for whoever watches.
public enum MigrationEvent: Sendable {
    case connected
    /// What would fail, in words.
    case checked(MigrationCheck)
    /// A round is through: of memory that the tree may change meanwhile.
    case round(MigrationRound, PreCopy.Estimate)
    case freezing
    /// All of it is restored there; it does not run yet.
    case ready
    /// It runs there; `nanoseconds` is how long it ran nowhere.
    case running(nanoseconds: UInt64)
    /// So many bytes of its memory have still to follow it.
    case follows(bytes: UInt64)
    /// The connection was cut when it may run there: it is asked.
    case inDoubt(String)
}

/// What `dump --check-only` here and `restore --check-only` there have found.
public struct MigrationCheck: Sendable {
    package var here: CheckReport, there: CheckReport?
    public var passes: Bool { here.passes && there?.passes == true }
    /// One finding a line, failures first.
    public var text: String { ([here, there].compactMap { $0 }).map { "\($0.command):\n" + $0.text(all: false) }.joined(separator: "\n") }
    /// "here 0 fail, 0 warnings, 31 ok; there ...".
    public var summary: String { "here \(here.summary)" + (there.map { "; there \($0.summary)" } ?? "") }
    package var firstFailure: Verdict? { (here.verdicts + (there?.verdicts ?? [])).first { $0.grade == .fails } }
    package var failures: Int { (here.verdicts + (there?.verdicts ?? [])).count { $0.grade == .fails } }
}

/// What was moved, and how.
public struct MigrationResult: Sendable {
    public var rounds: [MigrationRound] = []
    /// From the freeze until the tree ran at the destination, and from the start, ns.
    public var downtime: UInt64 = 0, total: UInt64 = 0
    /// Bytes of memory sent from the frozen tree, and of images.
    public var lastBytes: UInt64 = 0, imageBytes: UInt64 = 0
    /// Bytes of memory that followed the tree when it ran already.
    public var laterBytes: UInt64 = 0
    public var processes = 0, threads = 0
    public init() {}
}

/// The settings of the dump that its restore must share.
enum Terms {
    /// Memory may follow the tree.
    static let postCopy = "post-copy"
    static func of(_ settings: DumpSettings) -> [String] {
        let flags: [(String, Bool)] = [
            ("shell-job", settings.shellJob), ("file-locks", settings.fileLocks), ("ext-unix-sk", settings.externalUnixSockets),
            ("tcp-established", settings.tcpEstablished), ("tcp-close", settings.tcpClose), ("evasive-devices", settings.evasiveDevices),
            ("filesize", settings.fileValidation == .size),
        ]
        return flags.filter(\.1).map(\.0) + settings.external.map { "external=\($0)" }
    }

    /// Added to what the destination itself was asked for.
    static func add(_ terms: [String], to settings: inout RestoreSettings) {
        for term in terms {
            switch term {
            case "shell-job": settings.shellJob = true
            case "file-locks": settings.fileLocks = true
            case "ext-unix-sk": settings.externalUnixSockets = true
            case "tcp-established": settings.tcpEstablished = true
            case "tcp-close": settings.tcpClose = true
            case "evasive-devices": settings.evasiveDevices = true
            case "filesize": settings.fileValidation = .size
            default: if term.hasPrefix("external=") { settings.external.append(String(term.dropFirst(9))) }
            }
        }
    }
}
