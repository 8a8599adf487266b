/// `stasis help --completions SHELL`, from the option table.
package enum Completions {
    package static func text(for shell: Shell) -> String {
        switch shell {
        case .bash: bash
        case .zsh: zsh
        case .fish: fish
        }
    }

    private static var commands: [Command] { Command.allCases.filter { !$0.isHidden && !$0.rawValue.contains(" ") } }

    /// The words that may follow an option whose argument is one of a few.
    private static func choices(of row: OptionRow) -> [String]? {
        switch row.name {
        case "manage-cgroups": ManageCgroups.allCases.map(\.rawValue)
        case "file-validation": FileValidation.allCases.map(\.rawValue)
        case "network-lock": NetworkLock.allCases.map(\.rawValue)
        case "pre-dump-mode": PreDumpMode.allCases.map(\.rawValue)
        case "completions": Shell.allCases.map(\.rawValue)
        case "verbosity": ["0", "1", "2", "3", "4"]
        case "empty-ns": ["net"]
        default: nil
        }
    }

    /// What an argument names, by its placeholder.
    private static func isPath(_ metavar: String) -> Bool { ["FILE", "DIR", "PATH"].contains(metavar) }

    private static var longNames: [String] {
        OptionTable.rows.flatMap { row in ["--" + row.name] + (row.hasNegation ? ["--no-" + row.name] : []) }
    }

    private static var bash: String {
        var cases = ""
        for row in OptionTable.rows {
            guard case .required(let metavar) = row.argument else { continue }
            let pattern = (row.short.map { "-\($0)|" } ?? "") + "--" + row.name
            let reply: String =
                if let words = choices(of: row) {
                    "COMPREPLY=($(compgen -W '\(words.joined(separator: " "))' -- \"$current\"))"
                } else if metavar == "DIR" {
                    "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$current\"))"
                } else if isPath(metavar) {
                    "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$current\"))"
                } else {
                    ":"
                }
            cases += "        \(pattern)) \(reply); return ;;\n"
        }
        return """
            # bash completion for stasis, made by: stasis help --completions bash
            _stasis() {
                local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
                COMPREPLY=()
                case $previous in
            \(cases)    esac
                if [[ $current == -* ]]; then
                    COMPREPLY=($(compgen -W '\(longNames.joined(separator: " "))' -- "$current"))
                elif ((COMP_CWORD == 1)); then
                    COMPREPLY=($(compgen -W '\(commands.map(\.rawValue).joined(separator: " ")) cpuinfo' -- "$current"))
                elif [[ $previous == cpuinfo ]]; then
                    COMPREPLY=($(compgen -W 'dump check' -- "$current"))
                fi
            }
            complete -F _stasis stasis

            """
    }

    private static var zsh: String {
        var specifications = ""
        for row in OptionTable.rows {
            let help = zshEscaped(row.help)
            var argument = ""
            switch row.argument {
            case .none: break
            case .required(let metavar): argument = ":\(zshEscaped(metavar)):\(zshAction(row, metavar))"
            case .optional(let metavar): argument = "::\(zshEscaped(metavar)):\(zshAction(row, metavar))"
            }
            let equals =
                switch row.argument {
                case .none: ""
                case .required: "="
                case .optional: "=-"
                }
            specifications += "        '*--\(row.name)\(equals)[\(help)]\(argument)' \\\n"
            if row.hasNegation { specifications += "        '*--no-\(row.name)[not: \(help)]' \\\n" }
            if let short = row.short {
                let joined =
                    switch row.argument {
                    case .none: ""
                    case .required: "+"
                    case .optional: "-"
                    }
                specifications += "        '*-\(short)\(joined)[\(help)]\(argument)' \\\n"
            }
        }
        let described = commands.map { "        '\($0.rawValue):\(zshEscaped($0.summary))'" }.joined(separator: "\n")
        return """
            #compdef stasis
            # zsh completion for stasis, made by: stasis help --completions zsh
            _stasis_commands() {
                local -a commands=(
            \(described)
                    'cpuinfo:images of the CPU features (dump, check)'
                )
                _describe command commands
            }
            _stasis() {
                _arguments -s -S \\
            \(specifications)        '1:command:_stasis_commands' \\
                    '*::operand:'
            }
            _stasis "$@"

            """
    }

    private static func zshAction(_ row: OptionRow, _ metavar: String) -> String {
        if let words = choices(of: row) { return "(" + words.joined(separator: " ") + ")" }
        return metavar == "DIR" ? "_files -/" : isPath(metavar) ? "_files" : " "
    }

    private static func zshEscaped(_ text: String) -> String {
        text.map { "[]:\\".contains($0) ? "\\\($0)" : $0 == "'" ? "'\\''" : String($0) }.joined()
    }

    private static var fish: String {
        var lines = ["# fish completion for stasis, made by: stasis help --completions fish", "complete -c stasis -f"]
        let names = commands.map(\.rawValue) + ["cpuinfo"]
        let first = "not __fish_seen_subcommand_from \(names.joined(separator: " "))"
        for command in commands { lines.append("complete -c stasis -n '\(first)' -a \(command.rawValue) -d '\(fishEscaped(command.summary))'") }
        lines.append("complete -c stasis -n '\(first)' -a cpuinfo -d 'images of the features of the CPU'")
        lines.append("complete -c stasis -n '__fish_seen_subcommand_from cpuinfo' -a 'dump check'")
        for row in OptionTable.rows {
            var line = "complete -c stasis -l \(row.name)" + (row.short.map { " -s \($0)" } ?? "")
            if case .required(let metavar) = row.argument { line += fishArgument(row, metavar) }
            lines.append(line + " -d '\(fishEscaped(row.help))'")
            if row.hasNegation { lines.append("complete -c stasis -l no-\(row.name) -d 'not: \(fishEscaped(row.help))'") }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func fishArgument(_ row: OptionRow, _ metavar: String) -> String {
        if let words = choices(of: row) { return " -x -a '\(words.joined(separator: " "))'" }
        if metavar == "DIR" { return " -x -a '(__fish_complete_directories)'" }
        return isPath(metavar) ? " -r -F" : " -x"
    }

    private static func fishEscaped(_ text: String) -> String {
        text.map { "\\'".contains($0) ? "\\\($0)" : String($0) }.joined()
    }
}
