/// What was given for one option, and the strict readings of it.
package struct OptionValue: Sendable, Equatable {
    /// As a user would write it: "--port".
    let name: String
    /// The argument; nil where there is none (flags, optional arguments).
    let argument: String?
    /// False for the `--no-` form.
    let isOn: Bool

    var text: String { argument ?? "" }

    private func refuse(_ why: String, try remedy: String? = nil) -> OptionError {
        .usage("\(name) \"\(text)\": \(why)", try: remedy)
    }

    /// A whole decimal number, with nothing before or after it.
    func number<Number: FixedWidthInteger>(in range: ClosedRange<Number>) throws(OptionError) -> Number {
        guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x2d }),
            text.utf8.dropFirst().allSatisfy({ $0 != 0x2d })
        else { throw refuse("not a number", try: "a whole number from \(range.lowerBound) to \(range.upperBound)") }
        guard let number = Number(text), range.contains(number) else {
            throw refuse("out of range", try: "a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    /// A descriptor number.
    func descriptor() throws(OptionError) -> Int32 { try number(in: 0...Int32.max) }

    /// Bytes: a number, perhaps followed by K, M or G (powers of 1024).
    func size() throws(OptionError) -> UInt64 {
        let shift: UInt64? =
            switch text.utf8.last.map({ $0 & ~0x20 }) {
            case UInt8(ascii: "K"): 10
            case UInt8(ascii: "M"): 20
            case UInt8(ascii: "G"): 30
            default: nil
            }
        let digits = shift == nil ? text : String(text.dropLast())
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else {
            throw refuse("not a size", try: "a number of bytes, or one followed by K, M or G")
        }
        guard let number = UInt64(digits), number <= UInt64.max >> (shift ?? 0) else { throw refuse("too big") }
        return number << (shift ?? 0)
    }

    /// One of the cases of an enumeration whose raw values are the words to write.
    func choice<Choice: RawRepresentable<String> & CaseIterable>(
        _: Choice.Type = Choice.self
    ) throws(OptionError) -> Choice {
        guard let choice = Choice(rawValue: text) else {
            throw refuse("unknown", try: Choice.allCases.map(\.rawValue).joined(separator: ", "))
        }
        return choice
    }

    /// Numbers separated by commas.
    func numbers() throws(OptionError) -> [UInt64] {
        var numbers: [UInt64] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            numbers.append(try OptionValue(name: name, argument: String(part), isOn: true).number(in: 0...UInt64.max))
        }
        return numbers
    }

    /// `fd[N]:RESOURCE` and `debug[N]:TEXT`.
    func inheritedDescriptor() throws(OptionError) -> (kind: String, InheritedDescriptor) {
        guard let open = text.firstIndex(of: "["), let close = text.firstIndex(of: "]"), open < close,
            ["fd", "debug"].contains(text[..<open]), let number = Int32(text[text.index(after: open)..<close]), number >= 0,
            text[text.index(after: close)...].hasPrefix(":"), text.index(close, offsetBy: 2) < text.endIndex
        else { throw refuse("not a descriptor and its resource", try: "fd[3]:pipe:[4711]") }
        return (
            String(text[..<open]),
            InheritedDescriptor(descriptor: number, resource: String(text[text.index(close, offsetBy: 2)...]))
        )
    }

    /// `KIND[ID][:VALUE]`; an id may hold brackets; the one before a colon or the end closes it.
    func external() throws(OptionError) -> External {
        guard let open = text.firstIndex(of: "["), let kind = External.Kind(rawValue: String(text[..<open])) else {
            throw refuse(
                "not an external resource",
                try: "KIND[ID]:VALUE with KIND one of " + External.Kind.allCases.map(\.rawValue).joined(separator: ", "))
        }
        let rest = text[text.index(after: open)...]
        let closes = rest.indices.first { rest[$0] == "]" && ["", ":"].contains(rest[rest.index(after: $0)...].prefix(1)) }
        guard let close = closes else { throw refuse("the bracket after \(kind.rawValue) is not closed, or not followed by a colon") }
        let after = rest[rest.index(after: close)...]
        return External(kind: kind, id: String(rest[..<close]), value: after.isEmpty ? nil : String(after.dropFirst()))
    }

    /// `NS:PID` or `NS:FILE`, for user namespaces with `,UID,GID`.
    func joinedNamespace() throws(OptionError) -> JoinedNamespace {
        guard let colon = text.firstIndex(of: ":"), colon != text.startIndex, text.index(after: colon) < text.endIndex else {
            throw refuse("not a namespace", try: "net:PID or net:/path/of/a/namespace")
        }
        guard let kind = JoinedNamespace.Kind(rawValue: String(text[..<colon])) else {
            throw refuse("unknown namespace", try: JoinedNamespace.Kind.allCases.map(\.rawValue).joined(separator: ", "))
        }
        let parts = text[text.index(after: colon)...].split(separator: ",", maxSplits: 1, omittingEmptySubsequences: false)
        return JoinedNamespace(kind: kind, target: String(parts[0]), extra: parts.count > 1 ? String(parts[1]) : nil)
    }

    /// `[CTRL:]/PATH`.
    func cgroupRoot() throws(OptionError) -> CgroupRoot {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let path = String(parts[parts.count - 1])
        guard path.hasPrefix("/") else { throw refuse("the path must begin with a slash", try: "--cgroup-root /path") }
        return CgroupRoot(controller: parts.count > 1 ? String(parts[0]) : nil, path: path)
    }

    /// Items add to fpu and ins; "^" turns adding into taking away, and back, up to the next comma; "none" takes all away.
    func cpuCapabilities() throws(OptionError) -> CPUCapabilities {
        guard let argument else { return .all }
        var result: CPUCapabilities = [.fpu, .ins]
        for item in argument.split(separator: ",") {
            var isInverse = true
            for word in item.split(separator: "^", omittingEmptySubsequences: false) {
                isInverse.toggle()
                let named: CPUCapabilities
                switch word {
                case "": continue
                case "fpu": named = .fpu
                case "cpu": named = .cpu
                case "ins": named = .ins
                case "all": named = .all
                case "none": named = []
                default: throw refuse("unknown capability", try: "fpu, cpu, ins, all, none")
                }
                if named.isEmpty { result = isInverse ? .all : [] } else if isInverse { result.subtract(named) } else { result.formUnion(named) }
            }
        }
        return result
    }
}
