import Options

/// `stasis --help`, `stasis help [--man | --completions SHELL]`.
enum HelpCommand {
    static func run(_ options: Options = Options(command: .help)) -> Int32 {
        if options.manualPage {
            Output.text(ManualPage.text)
        } else if let shell = options.completions {
            Output.text(Completions.text(for: shell))
        } else {
            Output.text(Help.text)
        }
        return 0
    }
}
