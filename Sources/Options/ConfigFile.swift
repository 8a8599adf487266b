/// A configuration file: one long option a line, without dashes, its argument after blanks or "=".
///
///     tcp-established
///     work-dir "/home/me/my \"work\" directory"   # quotes keep blanks and number signs
///     no-restore-sibling
///
/// Commands are not allowed. (criu(8), CONFIGURATION FILES)
package struct ConfigFile: Sendable, Equatable {
    package struct Line: Sendable, Equatable {
        package var number: Int
        /// As on a command line: "--work-dir=/tmp".
        package var word: String
    }
    package var path: String
    package var lines: [Line]

    package init(path: String, contents: String) throws(OptionError) {
        self.path = path
        lines = []
        for (index, text) in contents.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
            let place = "\(path), line \(index + 1)"
            let words = try Self.words(of: text, at: place)
            guard let name = words.first else { continue }
            guard words.count <= 2 else {
                throw .usage("\(place): more than an option and its argument", try: "double quotes around an argument with blanks")
            }
            guard !name.isEmpty, !name.hasPrefix("-") else { throw .usage("\(place): \"\(name)\" is not the name of an option", try: "its name without dashes") }
            lines.append(Line(number: index + 1, word: "--" + name + (words.count == 2 ? "=" + words[1] : "")))
        }
    }

    /// Words between blanks. `"..."` keeps blanks and "#", and `\"` in it is a quote; any other backslash is itself.
    private static func words(of line: Substring.UTF8View, at place: String) throws(OptionError) -> [String] {
        let quote = UInt8(ascii: "\""), backslash = UInt8(ascii: "\\")
        var words: [String] = []
        var word: [UInt8]?
        var isQuoted = false
        var rest = line
        func end() { if let done = word { words.append(String(decoding: done, as: UTF8.self)) }; word = nil }
        while let byte = rest.popFirst() {
            if isQuoted {
                if byte == backslash, rest.first == quote {
                    rest.removeFirst()
                    word = (word ?? []) + [quote]
                } else if byte == quote {
                    isQuoted = false
                } else {
                    word = (word ?? []) + [byte]
                }
                continue
            }
            switch byte {
            case quote:
                isQuoted = true
                word = word ?? []
            case UInt8(ascii: "#"):
                end()
                return words
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"): end()
            default: word = (word ?? []) + [byte]
            }
        }
        guard !isQuoted else { throw .usage("\(place): the quotes are not closed") }
        end()
        return words
    }

    /// The options of the file, each error with its line.
    func options() throws(OptionError) -> [GivenOption] {
        var given: [GivenOption] = []
        for line in lines {
            let place = "\(path), line \(line.number)"
            let sorted: SortedWords
            do throws(OptionError) { sorted = try sortWords([line.word]) } catch { throw error.inside(place) }
            given += sorted.options
        }
        return given
    }
}
