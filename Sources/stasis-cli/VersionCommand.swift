/// `stasis --version`: as CRIU 4.2 answers, because clients compare; our own version stands below.
enum VersionCommand {
    static let version = "0.1.0"

    static func run() -> Int32 {
        Output.text("Version: 4.2\nStasis: \(version)\n")
        return 0
    }
}
