internal import CLinux
import Glibc
import Synchronization

/// One option as it was given, not yet applied.
struct GivenOption: Sendable {
    let row: OptionRow
    let value: OptionValue
}

/// Words sorted by getopt_long(3): options, and what is none.
struct SortedWords: Sendable {
    var options: [GivenOption] = []
    var operands: [String] = []
}

/// getopt keeps its state in globals, and tests run side by side.
private let getoptState = Mutex(())

/// Reads words as CRIU does: options and operands in any order, abbreviations, `--tree=1`, `-t1`, `-vv`, `--`.
/// - Parameter words: without the program's name.
func sortWords(_ words: [String]) throws(OptionError) -> SortedWords {
    let table = LongOptionTable(for: words)
    let result = getoptState.withLock { _ in
        Result { () throws(OptionError) -> SortedWords in try table.read(words) }
    }
    return try result.get()
}

/// The option table as getopt wants it.
private struct LongOptionTable {
    private struct Entry {
        let row: OptionRow
        let name: String
        let isOn: Bool
    }
    /// Values of long options begin here, past every short option's character.
    private static let firstValue: Int32 = 1000
    private let entries: [Entry]
    private let shortOptions: String

    init(for words: [String]) {
        var entries: [Entry] = []
        var short = ":"
        for row in OptionTable.rows {
            // Ours are there only when written in full: they must not make an abbreviation of CRIU's ambiguous.
            if OptionTable.ownNames.contains(row.name), !words.contains(where: { $0 == "--\(row.name)" || $0.hasPrefix("--\(row.name)=") }) {
                continue
            }
            entries.append(Entry(row: row, name: row.name, isOn: true))
            if row.hasNegation { entries.append(Entry(row: row, name: "no-" + row.name, isOn: false)) }
            guard let character = row.short else { continue }
            short.append(character)
            switch row.argument {
            case .none: break
            case .required: short += ":"
            case .optional: short += "::"
            }
        }
        self.entries = entries
        shortOptions = short
    }

    func read(_ words: [String]) throws(OptionError) -> SortedWords {
        let names = unsafe entries.map { unsafe strdup($0.name) }
        let arguments = unsafe (["stasis"] + words).map { unsafe strdup($0) } + [nil]
        defer {
            for unsafe name in unsafe names { unsafe free(name) }
            for unsafe argument in unsafe arguments { unsafe free(argument) }
        }
        var longOptions: [option] = unsafe []
        for (index, entry) in entries.enumerated() {
            let kind: Int32 =
                switch entry.row.argument {
                case .none: no_argument
                case .required: required_argument
                case .optional: optional_argument
                }
            unsafe longOptions.append(
                option(name: names[index], has_arg: kind, flag: nil, val: Self.firstValue + Int32(index)))
        }
        unsafe longOptions.append(option(name: nil, has_arg: 0, flag: nil, val: 0))

        var sorted = SortedWords()
        var argv = unsafe arguments  // getopt permutes it
        let count = Int32(words.count + 1)
        clinux_getopt_begin()
        while true {
            let step = unsafe clinux_getopt_next(count, &argv, shortOptions, longOptions)
            let before = unsafe step.next
            let word = unsafe before >= 1 && before <= count ? argv[Int(before) - 1].map { unsafe String(cString: $0) } ?? "" : ""
            switch unsafe step.result {
            case -1:
                for index in unsafe Int(step.next)..<Int(count) {
                    unsafe sorted.operands.append(argv[index].map { unsafe String(cString: $0) } ?? "")
                }
                return sorted
            case Int32(UInt8(ascii: "?")), Int32(UInt8(ascii: ":")):
                throw unsafe explain(character: step.at, isMissingArgument: step.result == Int32(UInt8(ascii: ":")), word: word)
            case let value:
                let argument = unsafe step.argument.map { unsafe String(cString: $0) }
                guard let (row, isOn, name) = given(value) else { continue }
                sorted.options.append(
                    GivenOption(row: row, value: OptionValue(name: name, argument: argument, isOn: isOn)))
            }
        }
    }

    private func given(_ value: Int32) -> (OptionRow, Bool, String)? {
        if value >= Self.firstValue {
            let entry = entries[Int(value - Self.firstValue)]
            return (entry.row, entry.isOn, "--" + entry.name)
        }
        let character = Character(UnicodeScalar(UInt8(truncatingIfNeeded: value)))
        return OptionTable.rows.first { $0.short == character }.map { ($0, true, "--" + $0.name) }
    }

    /// getopt says only that something is wrong; find out what.
    private func explain(character: Int32, isMissingArgument: Bool, word: String) -> OptionError {
        if let (row, _, name) = given(character) {
            guard !isMissingArgument else {
                if case .required(let metavar) = row.argument { return .usage("\(name) needs an argument: \(metavar)") }
                return .usage("\(name) needs an argument")
            }
            return .usage("\(name) takes no argument: \"\(word)\"")
        }
        guard word.hasPrefix("--") else {
            let letter = character > 0 && character < 128 ? String(UnicodeScalar(UInt8(character))) : word
            return .usage("unknown option -\(letter)", try: "stasis --help")
        }
        let name = String(word.dropFirst(2).prefix { $0 != "=" })
        let meant = entries.filter { $0.name.hasPrefix(name) }.map { "--" + $0.name }
        if meant.count > 1 { return .usage("--\(name) is not clear", try: meant.joined(separator: ", ")) }
        let near = entries.map(\.name).filter { isNear($0, name) }.map { "--" + $0 }
        return .usage("unknown option --\(name)", try: near.isEmpty ? "stasis --help" : near.joined(separator: ", "))
    }

    /// Whether at most two letters differ (Levenshtein).
    private func isNear(_ left: String, _ right: String) -> Bool {
        let a = Array(left.utf8), b = Array(right.utf8)
        guard abs(a.count - b.count) <= 2 else { return false }
        var row = Array(0...b.count)
        for i in a.indices {
            var diagonal = row[0]
            row[0] = i + 1
            for j in b.indices {
                let replaced = diagonal + (a[i] == b[j] ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = min(replaced, row[j] + 1, row[j + 1] + 1)
            }
        }
        return row[b.count] <= 2
    }
}
