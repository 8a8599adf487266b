/// One option: what getopt, the help, the manual page and the completions need to know, and where its value goes.
package struct OptionRow: Sendable {
    package enum Argument: Sendable, Equatable { case none, required(String), optional(String) }

    package enum Group: String, Sendable, CaseIterable {
        case common = "Common options"
        case tree = "Dump and restore"
        case files = "Files"
        case network = "Sockets and network"
        case namespaces = "Namespaces, mounts and security"
        case cgroups = "Cgroups"
        case memory = "Memory and incremental images"
        case server = "Page server, service and TLS"
        case check = "Options of check"
        case own = "Beyond CRIU"
    }

    package let name: String
    package let short: Character?
    package let argument: Argument
    /// Whether `--no-NAME` exists.
    package let hasNegation: Bool
    package let commands: CommandSet
    package let group: Group
    package let status: Status
    package let help: String
    let apply: @Sendable (inout Options, OptionValue) throws(OptionError) -> Void

    init(
        _ name: String, short: Character? = nil, taking argument: Argument = .none, negation: Bool = false, _ commands: CommandSet,
        _ group: Group, status: Status = .supported, _ help: String,
        apply: @escaping @Sendable (inout Options, OptionValue) throws(OptionError) -> Void
    ) {
        self.name = name
        self.short = short
        self.argument = argument
        self.hasNegation = negation
        self.commands = commands
        self.group = group
        self.status = status
        self.help = help
        self.apply = apply
    }

    /// "-t, --tree PID", "--manage-cgroups[=MODE]".
    package var usage: String {
        let long =
            switch argument {
            case .none: "--" + (hasNegation ? "[no-]" : "") + name
            case .required(let metavar): "--\(name) \(metavar)"
            case .optional(let metavar): "--\(name)[=\(metavar)]"
            }
        return (short.map { "-\($0), " } ?? "    ") + long
    }
}

/// All options of all commands, in the order help shows them.
package enum OptionTable {
    package static let rows: [OptionRow] =
        common + tree + files + network + namespaces + cgroups + memory + server + check + own

    package static func row(named name: String) -> OptionRow? { rows.first { $0.name == name } }

    /// Options of ours, of which no abbreviation is taken: what CRIU reads as an abbreviation of its own stays one.
    static let ownNames = Set(own.map(\.name))
}
