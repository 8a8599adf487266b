/// What is wrong with the command line or a configuration file, and what to do about it. Exit status 1.
package struct OptionError: Error, Equatable, CustomStringConvertible {
    package enum Kind: Sendable, Equatable { case usage, notSupportedYet }
    package var kind: Kind = .usage
    package var message: String
    package var remedy: String?

    package var description: String { message + (remedy.map { "\n  try: \($0)" } ?? "") }

    package static func usage(_ message: String, try remedy: String? = nil) -> OptionError {
        OptionError(message: message, remedy: remedy)
    }

    package static func notYet(_ name: String, _ feature: String) -> OptionError {
        OptionError(kind: .notSupportedYet, message: "not supported yet: \(name) (\(feature))")
    }

    func inside(_ place: String) -> OptionError {
        OptionError(kind: kind, message: "\(place): \(message)", remedy: remedy)
    }
}
