/// A JSON value (RFC 8259), written in the order it was built.
package indirect enum JSON: Equatable, Sendable {
    case null, bool(Bool), number(Int64), string(String), array([JSON]), object([Member])

    package struct Member: Equatable, Sendable {
        package var name: String
        package var value: JSON
        package init(_ name: String, _ value: JSON) { (self.name, self.value) = (name, value) }
    }

    package static func number(_ value: some BinaryInteger) -> JSON { .number(Int64(clamping: value)) }

    package var text: String {
        switch self {
        case .null: "null"
        case .bool(let value): value ? "true" : "false"
        case .number(let value): String(value)
        case .string(let value): Self.quoted(value)
        case .array(let values): "[" + values.map(\.text).joined(separator: ",") + "]"
        case .object(let members): "{" + members.map { Self.quoted($0.name) + ":" + $0.value.text }.joined(separator: ",") + "}"
        }
    }

    /// Quotes, backslashes and control characters escaped; everything else is UTF-8 as it stands (section 7).
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case "\r": result += "\\r"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
