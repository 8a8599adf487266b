/// What `stasis` can be told to do: CRIU 4.2's commands, and some of our own.
package enum Command: String, Sendable, CaseIterable {
    case dump, preDump = "pre-dump", restore, lazyPages = "lazy-pages", check, pageServer = "page-server", service, swrk, dedup
    case cpuinfoDump = "cpuinfo dump", cpuinfoCheck = "cpuinfo check"
    case explain, verify
    case migrate, receive
    case exec, show
    case networkUnlock = "network-unlock"
    case demo, help, count, keepTrackers = "keep-trackers", loadPages = "load-pages", pluginHost = "plugin-host"

    package var summary: String {
        switch self {
        case .dump: "freeze a process tree, write it as images, then end it (or stop it, or let it run on)"
        case .preDump: "copy the memory of a tree that keeps running"
        case .restore: "build a process tree again from an image directory"
        case .lazyPages: "give restored tasks their memory as they touch it"
        case .check: "test what the running kernel offers"
        case .pageServer: "receive memory pages from another machine"
        case .service: "answer RPC requests on a socket"
        case .swrk: "answer RPC requests on the descriptor FD (for libraries)"
        case .dedup: "free pages in parent images that newer images replace"
        case .cpuinfoDump: "write the CPU's features into the image directory"
        case .cpuinfoCheck: "compare the CPU's features with those in the image directory"
        case .exec: "removed; see compel"
        case .show: "removed; see crit"
        case .explain: "say what a dump of a running tree would refuse or need an option for; freezes nothing"
        case .verify: "look whether an image directory (DIR or -D) and its parents are as they were dumped"
        case .migrate: "move a running tree to another machine, where stasis receive waits or ssh leads"
        case .receive: "take a tree that stasis migrate sends, and let it run here"
        case .networkUnlock: "let packets through again that a dump holds back for a restore (-D), or that one held that was killed"
        case .demo: "show a small program being dumped and restored"
        case .help: "print help, the manual page (--man) or completions (--completions SHELL)"
        case .count: "the program that demo dumps"
        case .keepTrackers: "holds the memory trackers of a tree between two runs"
        case .loadPages: "gives a restored tree its memory from local images"
        case .pluginHost: "the process that a plugin lives in"
        }
    }

    /// Words that follow the command itself.
    package var operand: String? {
        switch self {
        case .swrk: "FD"
        case .verify: "[DIR]"
        case .migrate: "PID"
        default: nil
        }
    }

    /// Shown in help and completions.
    package var isHidden: Bool { self == .count || self == .keepTrackers || self == .loadPages || self == .pluginHost || self == .exec || self == .show }

    package var status: Status {
        switch self {
        case .service, .swrk: .notYet("RPC")
        case .exec: .removed("use compel instead")
        case .show: .removed("use crit instead")
        case .migrate, .receive, .dump, .preDump, .restore, .lazyPages, .pageServer, .check, .explain, .cpuinfoDump, .cpuinfoCheck, .dedup, .verify, .networkUnlock, .demo, .help, .count, .keepTrackers, .loadPages, .pluginHost: .supported
        }
    }
}

/// Whether a command or an option works in this version.
package enum Status: Sendable, Equatable {
    case supported
    /// Comes later; the text says which feature is missing. Never silently ignored.
    case notYet(String)
    /// CRIU once had it.
    case removed(String)
}

/// The commands on which an option has an effect. With the others it is read, checked and without effect, as in CRIU.
package struct CommandSet: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package init(_ command: Command) {
        rawValue = Command.allCases.firstIndex(of: command).map { 1 << UInt32($0) } ?? 0
    }

    package static let dump = CommandSet(.dump)
    package static let preDump = CommandSet(.preDump)
    package static let restore = CommandSet(.restore)
    package static let lazyPages = CommandSet(.lazyPages)
    package static let check = CommandSet(.check)
    package static let pageServer = CommandSet(.pageServer)
    package static let service = CommandSet(.service)
    package static let cpuinfo: CommandSet = [CommandSet(.cpuinfoDump), CommandSet(.cpuinfoCheck)]
    package static let explain = CommandSet(.explain)
    package static let help = CommandSet(.help)
    package static let migrate = CommandSet(.migrate)
    package static let receive = CommandSet(.receive)
    package static let dedup = CommandSet(.dedup)
    package static let verify = CommandSet(.verify)
    package static let networkUnlock = CommandSet(.networkUnlock)
    package static let all = CommandSet(rawValue: .max)

    package var names: [String] {
        self == .all ? ["all"] : Command.allCases.filter { contains(CommandSet($0)) }.map(\.rawValue)
    }
}
