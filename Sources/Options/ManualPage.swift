/// `stasis help --man`: stasis(8) in roff (man(7)), from the option table.
package enum ManualPage {
    package static var text: String {
        var page = """
            .TH STASIS 8 "" "stasis 0.1.0" "System administration"
            .SH NAME
            stasis \\- checkpoint and restore process trees
            .SH SYNOPSIS
            .B stasis
            .I command
            .RI [ option \\&...]
            .SH DESCRIPTION
            .B stasis
            freezes a running process tree, writes it to a directory of images, and brings it back to life where it stood.
            Commands, options, image files and exit statuses are those of CRIU 4.2.
            .SH COMMANDS

            """
        for command in Command.allCases where !command.isHidden {
            let operand = command.operand.map { " \\fI\($0)\\fR" } ?? ""
            page += ".TP\n\\fB\(escaped(command.rawValue))\\fR\(operand)\n\(sentence(command.summary, command.status))\n"
        }
        page += ".SH OPTIONS\n"
        for group in OptionRow.Group.allCases {
            page += ".SS \(escaped(group.rawValue))\n"
            for row in OptionTable.rows where row.group == group { page += entry(row) }
        }
        return page + """
            .SH FILES
            .TP
            .I /etc/criu/default.conf, ~/.criu/default.conf
            Configuration: one long option a line, without dashes, its argument after a blank; number signs begin comments,
            double quotes hold arguments with blanks. Read in this order, then the file named by
            .BR CRIU_CONFIG_FILE ,
            then that of
            .BR \\-\\-config ,
            then the command line. What comes later wins; options that make lists add up.
            .SH ENVIRONMENT
            .TP
            .B CRIU_CONFIG_FILE
            One more configuration file.
            .TP
            .B CRTOOLS_SCRIPT_ACTION, CRTOOLS_IMAGE_DIR, CRTOOLS_INIT_PID
            Set for action scripts: the hook point, the image directory, the pid of the root task.
            .SH EXIT STATUS
            0 when done, 1 when not. After a dump whose post\\-dump script failed, that script's exit status.
            .SH SEE ALSO
            .BR criu (8),
            .BR crit (1)

            """
    }

    private static func entry(_ row: OptionRow) -> String {
        var head = row.short.map { "\\fB\\-\($0)\\fR, " } ?? ""
        head += "\\fB\\-\\-\(row.hasNegation ? "[no\\-]" : "")\(escaped(row.name))\\fR"
        switch row.argument {
        case .none: break
        case .required(let metavar): head += " \\fI\(escaped(metavar))\\fR"
        case .optional(let metavar): head += "[=\\fI\(escaped(metavar))\\fR]"
        }
        let commands = row.commands == .all ? "" : " (\(row.commands.names.joined(separator: ", ")))"
        return ".TP\n\(head)\n\(sentence(row.help, row.status))\(escaped(commands))\n"
    }

    private static func sentence(_ text: String, _ status: Status) -> String {
        var text = escaped(text.prefix(1).uppercased() + text.dropFirst() + ".")
        if case .notYet = status { text += " Not supported yet." }
        return text
    }

    /// Dashes stay dashes, backslashes show, and no line begins with a request.
    private static func escaped(_ text: String) -> String {
        var result = ""
        for character in text {
            switch character {
            case "\\": result += "\\e"
            case "-": result += "\\-"
            case "'" where result.isEmpty, "." where result.isEmpty: result += "\\&\(character)"
            default: result.append(character)
            }
        }
        return result
    }
}
