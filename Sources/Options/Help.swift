/// `stasis --help`, from the option table.
package enum Help {
    package static var text: String {
        var text = """
            Usage: stasis COMMAND [OPTION...]

            Checkpoint and restore process trees. Drop-in for CRIU 4.2.

            Commands:

            """
        for command in Command.allCases where !command.isHidden {
            let name = command.rawValue + (command.operand.map { " " + $0 } ?? "")
            text += "  " + pad(name, to: 16) + command.summary + later(command.status) + "\n"
        }
        for group in OptionRow.Group.allCases {
            text += "\n\(group.rawValue):\n"
            for row in OptionTable.rows where row.group == group {
                let usage = "  " + row.usage
                let help = row.help + later(row.status)
                let lines = wrapped(help, width: 68)
                text += (usage.utf8.count < 34 ? pad(usage, to: 34) : usage + "\n" + pad("", to: 34))
                text += lines.joined(separator: "\n" + pad("", to: 34)) + "\n"
            }
        }
        return text + """

            Options may also stand in configuration files, one a line and without dashes: /etc/criu/default.conf,
            ~/.criu/default.conf, the file named by CRIU_CONFIG_FILE, that of --config. The command line wins.

            """
    }

    private static func later(_ status: Status) -> String {
        if case .notYet = status { " [not supported yet]" } else { "" }
    }

    private static func pad(_ text: String, to width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.utf8.count))
    }

    private static func wrapped(_ text: String, width: Int) -> [String] {
        var lines: [String] = [""]
        for word in text.split(separator: " ") {
            if lines[lines.count - 1].utf8.count + word.utf8.count >= width { lines.append("") }
            lines[lines.count - 1] += (lines[lines.count - 1].isEmpty ? "" : " ") + word
        }
        return lines
    }
}
