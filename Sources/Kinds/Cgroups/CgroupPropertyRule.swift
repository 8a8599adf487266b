/// One controller of --cgroup-props: which of its files are saved, beside those that we know or in their place.
package struct CgroupPropertyRule: Equatable, Sendable {
    package var controller: String
    /// "replace" rather than "merge".
    package var replaces: Bool
    package var properties: [String]

    /// What is wrong with a text, and in which line.
    package struct Problem: Error, Equatable, CustomStringConvertible {
        package let line: Int, what: String
        package var description: String { "line \(line): \(what)" }
    }

    /// The simplified YAML of criu(8): `"cpu":`, then ` - "strategy": "merge"` and ` - "properties": ["cpu.shares", "cpu.idle"]`.
    package static func parse(_ text: String) throws(Problem) -> [CgroupPropertyRule] {
        var words = try tokens(of: text)[...]
        var rules = [CgroupPropertyRule]()
        func next(_ wanted: String) throws(Problem) -> Token {
            guard let token = words.popFirst() else { throw Problem(line: text.split(separator: "\n", omittingEmptySubsequences: false).count, what: "it ends where \(wanted) is expected") }
            return token
        }
        func expect(_ mark: Character) throws(Problem) {
            let token = try next("'\(mark)'")
            if token.mark != mark { throw Problem(line: token.line, what: "'\(mark)' is expected") }
        }
        func string(_ what: String) throws(Problem) -> (text: String, line: Int) {
            let token = try next(what)
            guard let found = token.text else { throw Problem(line: token.line, what: "\(what) in double quotes is expected") }
            return (found, token.line)
        }
        while !words.isEmpty {
            let name = try string("a controller")
            var rule = CgroupPropertyRule(controller: name.text, replaces: false, properties: [])
            try expect(":")
            while words.first?.mark == "-" {
                words.removeFirst()
                let key = try string("\"strategy\" or \"properties\"")
                try expect(":")
                switch key.text {
                case "strategy":
                    let value = try string("\"merge\" or \"replace\"")
                    guard value.text == "merge" || value.text == "replace" else { throw Problem(line: value.line, what: "there is no strategy \"\(value.text)\": merge or replace") }
                    rule.replaces = value.text == "replace"
                case "properties":
                    try expect("[")
                    while words.first?.mark != "]" {
                        let property = try string("a property")
                        guard !property.text.isEmpty, !property.text.contains("/"), property.text != ".", property.text != ".." else { throw Problem(line: property.line, what: "\"\(property.text)\" is no file of a cgroup") }
                        rule.properties.append(property.text)
                        if words.first?.mark != "," { break }
                        words.removeFirst()
                    }
                    try expect("]")
                default: throw Problem(line: key.line, what: "\"\(key.text)\" is neither \"strategy\" nor \"properties\"")
                }
            }
            if rules.contains(where: { $0.controller == rule.controller }) { throw Problem(line: name.line, what: "\"\(rule.controller)\" is there twice") }
            rules.append(rule)
        }
        return rules
    }

    private struct Token {
        let line: Int
        /// Of a string in quotes, without them.
        var text: String?
        var mark: Character?
    }
    private static func tokens(of text: String) throws(Problem) -> [Token] {
        var found = [Token](), line = 1, rest = text[...]
        while let character = rest.popFirst() {
            switch character {
            case "\n": line += 1
            case " ", "\t", "\r": break
            case ":", "-", "[", "]", ",": found.append(Token(line: line, mark: character))
            case "\"":
                guard let end = rest.firstIndex(where: { $0 == "\"" || $0 == "\n" }), rest[end] == "\"" else { throw Problem(line: line, what: "a quote is not closed") }
                found.append(Token(line: line, text: String(rest[..<end])))
                rest = rest[rest.index(after: end)...]
            default: throw Problem(line: line, what: "'\(character)' outside of quotes")
            }
        }
        return found
    }
}
