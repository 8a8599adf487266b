/// /proc/PID/stat and /proc/PID/status of one task, proc(5).
public struct TaskStat: Equatable, Sendable {
    public let comm: String, state: Character, parent: Int32, group: Int32, session: Int32, flags: UInt64
    /// The controlling terminal's device, 0 without one, and its foreground group.
    public let terminal: Int32, foreground: Int32
    public let startTime: UInt64, startCode: UInt64, endCode: UInt64, startStack: UInt64
    public let startData: UInt64, endData: UInt64, startBreak: UInt64
    public let argStart: UInt64, argEnd: UInt64, envStart: UInt64, envEnd: UInt64, exitCode: Int32
    /// Memory that is there, bytes; not exact (proc(5)).
    public let resident: UInt64
    /// The CPU it ran on last.
    public let processor: Int32

    /// The command may hold spaces and parentheses: it ends at the last ')'.
    public init?(parsing bytes: [UInt8]) {
        guard let open = bytes.firstIndex(of: UInt8(ascii: "(")), let close = bytes.lastIndex(of: UInt8(ascii: ")")), open < close else { return nil }
        comm = String(decoding: bytes[(open + 1)..<close], as: UTF8.self)
        let fields = bytes[(close + 1)...].split(whereSeparator: { $0 == 32 || $0 == 10 })
        guard fields.count >= 50, let letter = fields[0].first else { return nil }
        state = Character(Unicode.Scalar(letter))
        func number(_ field: Int) -> Int64 {  // field numbers of proc(5); the first after ')' is 3
            var value: Int64 = 0, negative = false
            for byte in fields[field - 3] {
                if byte == UInt8(ascii: "-") { negative = true } else { value = value &* 10 &+ Int64(byte &- 48) }
            }
            return negative ? -value : value
        }
        func address(_ field: Int) -> UInt64 { UInt64(bitPattern: number(field)) }
        parent = Int32(truncatingIfNeeded: number(4)); group = Int32(truncatingIfNeeded: number(5))
        session = Int32(truncatingIfNeeded: number(6)); terminal = Int32(truncatingIfNeeded: number(7)); foreground = Int32(truncatingIfNeeded: number(8)); flags = address(9)
        startTime = address(22); resident = address(24) &* 4096; startCode = address(26); endCode = address(27); startStack = address(28)
        startData = address(45); endData = address(46); startBreak = address(47)
        argStart = address(48); argEnd = address(49); envStart = address(50); envEnd = address(51)
        processor = Int32(truncatingIfNeeded: number(39))
        exitCode = fields.count >= 50 ? Int32(truncatingIfNeeded: number(52)) : 0
    }
    public static func read(_ path: String) throws(SyscallError) -> TaskStat {
        guard let stat = TaskStat(parsing: try Files.readAtOnce(path)) else { throw SyscallError("parse", .path(path), 71 /* EPROTO */) }
        return stat
    }
    public static func of(_ process: ThreadID) throws(SyscallError) -> TaskStat { try read("/proc/\(process)/stat") }
    public static func of(_ thread: ThreadID, in process: ThreadID) throws(SyscallError) -> TaskStat {
        try read("/proc/\(process)/task/\(thread)/stat")
    }
}

/// The lines "Key:\tvalue" of /proc/PID/status and of /proc/PID/fdinfo/N. Texts are made of what is asked for only: a thread's
/// status has sixty lines, and a tree a thousand threads.
public struct KeyedLines: Sendable {
    private let bytes: [UInt8]
    private let places: [(start: Int, colon: Int, end: Int)]

    public init(parsing bytes: [UInt8]) {
        self.bytes = bytes
        var places = [(start: Int, colon: Int, end: Int)]()
        var start = 0, colon = -1
        for (at, byte) in bytes.enumerated() {
            if byte == UInt8(ascii: ":"), colon < 0 { colon = at }
            guard byte == UInt8(ascii: "\n") || at == bytes.count - 1 else { continue }
            if colon >= 0 { places.append((start, colon, byte == UInt8(ascii: "\n") ? at : at + 1)) }
            (start, colon) = (at + 1, -1)
        }
        self.places = places
    }

    public var lines: [(key: String, value: String)] { places.map { (String(decoding: bytes[$0.start..<$0.colon], as: UTF8.self), value($0)) } }
    public subscript(key: String) -> String? { places.first { isLine($0, of: key) }.map(value) }
    public func words(_ key: String) -> [Substring] { (self[key] ?? "").split(whereSeparator: { $0 == " " || $0 == "\t" }) }
    public func decimal(_ key: String) -> UInt64? { self[key].flatMap { UInt64($0) } }
    public func hexadecimal(_ key: String) -> UInt64? { self[key].flatMap { UInt64($0, radix: 16) } }
    public func octal(_ key: String) -> UInt64? { self[key].flatMap { UInt64($0, radix: 8) } }
    /// The text of every line of this key (fdinfo repeats some).
    public func all(_ key: String) -> [String] { places.filter { isLine($0, of: key) }.map(value) }

    private func isLine(_ place: (start: Int, colon: Int, end: Int), of key: String) -> Bool {
        place.colon - place.start == key.utf8.count && bytes[place.start..<place.colon].elementsEqual(key.utf8)
    }
    private func value(_ place: (start: Int, colon: Int, end: Int)) -> String {
        String(decoding: bytes[(place.colon + 1)..<place.end].drop { $0 == 32 || $0 == 9 }, as: UTF8.self)
    }
}

/// What lies below /proc/PID.
public enum Proc {
    public static func status(_ process: ThreadID) throws(SyscallError) -> KeyedLines {
        KeyedLines(parsing: try Files.readAtOnce("/proc/\(process)/status"))
    }
    public static func status(_ thread: ThreadID, in process: ThreadID) throws(SyscallError) -> KeyedLines {
        KeyedLines(parsing: try Files.readAtOnce("/proc/\(process)/task/\(thread)/status"))
    }
    public static func threads(of process: ThreadID) throws(SyscallError) -> [ThreadID] {
        try Files.names(in: "/proc/\(process)/task").compactMap { Int32($0) }.map { ThreadID($0) }.sorted()
    }
    /// Children of these threads of the process, zombies included (proc(5), /proc/PID/task/TID/children).
    public static func children(of process: ThreadID, threads: [ThreadID]) -> [ThreadID] {
        var found = [ThreadID]()
        for thread in threads {
            guard let text = try? Files.text("/proc/\(process)/task/\(thread)/children") else { continue }
            found += text.split(separator: " ").compactMap { Int32($0) }.map { ThreadID($0) }
        }
        return found
    }
    /// Descriptor numbers of the process, ascending.
    public static func descriptors(of process: ThreadID) throws(SyscallError) -> [Int32] {
        try Files.names(in: "/proc/\(process)/fd").compactMap { Int32($0) }.sorted()
    }
    public static func descriptorInfo(_ number: Int32, of process: ThreadID) throws(SyscallError) -> KeyedLines {
        KeyedLines(parsing: try Files.readAtOnce("/proc/\(process)/fdinfo/\(number)"))
    }
    /// /proc/PID/limits in the order of the resource numbers 0...15 (RLIM_INFINITY for "unlimited").
    public static func limits(of process: ThreadID) throws(SyscallError) -> [(soft: UInt64, hard: UInt64)] {
        let names = [
            "Max cpu time", "Max file size", "Max data size", "Max stack size", "Max core file size", "Max resident set", "Max processes",
            "Max open files", "Max locked memory", "Max address space", "Max file locks", "Max pending signals", "Max msgqueue size",
            "Max nice priority", "Max realtime priority", "Max realtime timeout",
        ]
        let lines = try Files.text("/proc/\(process)/limits").split(separator: "\n")
        return names.map { name in
            guard let line = lines.first(where: { $0.hasPrefix(name) }) else { return (.max, .max) }
            let words = line.dropFirst(name.count).split(separator: " ")
            func value(_ index: Int) -> UInt64 { index < words.count ? UInt64(words[index]) ?? .max : .max }
            return (value(0), value(1))
        }
    }
}
