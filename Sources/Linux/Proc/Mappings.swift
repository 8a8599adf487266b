import Glibc

/// One mapping of a task: a line of /proc/PID/maps with what smaps adds (proc(5), fs/proc/task_mmu.c).
public struct Mapping: Equatable, Sendable {
    public var start: UInt64, end: UInt64, readable: Bool, writable: Bool, executable: Bool, shared: Bool
    public var offset: UInt64, major: UInt32, minor: UInt32, inode: UInt64, name: String
    /// The VmFlags line of smaps; empty when read from maps.
    public var flags: VMFlags = []
    public var kernelPageSize: UInt64 = 4096
    /// pkeys(7); smaps has it where the CPU has protection keys.
    public var protectionKey: UInt64 = 0
    public var length: UInt64 { end - start }
    /// Private memory without a file, and none of the kernel's own.
    public var isPlain: Bool {
        inode == 0 && !shared && (name.isEmpty || name == "[heap]" || name == "[stack]" || name.hasPrefix("[anon:")) && flags.isDisjoint(with: [.io, .pureFrameNumbers])
    }
    public var protection: Int32 { (readable ? 1 : 0) | (writable ? 2 : 0) | (executable ? 4 : 0) }
}

/// VmFlags of smaps that a checkpoint looks at (Documentation/filesystems/proc.rst).
public struct VMFlags: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let growsDown = Self(rawValue: 1 << 0), locked = Self(rawValue: 1 << 1), hugetlb = Self(rawValue: 1 << 2)
    public static let noReserve = Self(rawValue: 1 << 3), sequential = Self(rawValue: 1 << 4), random = Self(rawValue: 1 << 5)
    public static let dontFork = Self(rawValue: 1 << 6), dontDump = Self(rawValue: 1 << 7), mergeable = Self(rawValue: 1 << 8)
    public static let hugePage = Self(rawValue: 1 << 9), noHugePage = Self(rawValue: 1 << 10), wipeOnFork = Self(rawValue: 1 << 11)
    public static let io = Self(rawValue: 1 << 12), pureFrameNumbers = Self(rawValue: 1 << 13), shadowStack = Self(rawValue: 1 << 14)
    public static let droppable = Self(rawValue: 1 << 15)
    /// Somebody gives its missing pages through a userfaultfd.
    public static let userfaultMissing = Self(rawValue: 1 << 16)

    /// By their two letters.
    fileprivate static let byCode: [UInt16: VMFlags] = {
        let codes: [(String, VMFlags)] = [
            ("gd", growsDown), ("lo", locked), ("ht", hugetlb), ("nr", noReserve), ("sr", sequential), ("rr", random), ("dc", dontFork), ("dd", dontDump),
            ("mg", mergeable), ("hg", hugePage), ("nh", noHugePage), ("wf", wipeOnFork), ("io", io), ("pf", pureFrameNumbers), ("ss", shadowStack),
            ("dp", droppable), ("um", userfaultMissing),
        ]
        return Dictionary(uniqueKeysWithValues: codes.map { (code($0.utf8.first!, $0.utf8.last!), $1) })
    }()
    fileprivate static func code(_ first: UInt8, _ second: UInt8) -> UInt16 { UInt16(first) << 8 | UInt16(second) }
}

extension Mapping {
    public static func all(of process: ThreadID, withFlags: Bool) throws(SyscallError) -> [Mapping] {
        let path = "/proc/\(process)/" + (withFlags ? "smaps" : "maps")
        let file = try FileDescriptor.open(path, O_RDONLY)
        var found = [Mapping]()
        // smaps has 800 bytes a mapping: it is read as it is parsed. What is left of a line waits at the front for its end.
        // By half a page: the kernel shows mappings into a page, and one that no longer fits it shows, and walks, again (fs/seq_file.c).
        var buffer = [UInt8](repeating: 0, count: 1 << 16), filled = 0
        while true {
            let got = try file.read(into: &buffer, from: filled, atMost: withFlags ? 2048 : .max)
            filled += got
            let end = got == 0 ? filled : (buffer[..<filled].lastIndex(of: UInt8(ascii: "\n")) ?? -1) + 1
            parse(buffer, upTo: end, &found)
            if got == 0 { return found }
            buffer.replaceSubrange(0..<(filled - end), with: Array(buffer[end..<filled]))
            filled -= end
        }
    }

    /// Reads maps or smaps text. Lines that begin with a lower-case hexadecimal digit open a mapping; "Key: value" lines describe it.
    public static func parse(_ bytes: [UInt8]) -> [Mapping] {
        var found = [Mapping]()
        parse(bytes, upTo: bytes.count, &found)
        return found
    }

    private static func parse(_ bytes: [UInt8], upTo count: Int, _ found: inout [Mapping]) {
        var at = 0
        while at < count {
            var end = at
            while end < count && bytes[end] != 10 { end += 1 }
            let first = bytes[at]
            if (first >= 48 && first <= 57) || (first >= 97 && first <= 102) {
                if let mapping = parseHead(bytes[at..<end]) { found.append(mapping) }
            } else if first == UInt8(ascii: "V"), end - at > 8, bytes[at + 2] == UInt8(ascii: "F"), !found.isEmpty {
                var word = at + 8
                while word + 1 < end {
                    if bytes[word] == 32 { word += 1; continue }
                    if let flag = VMFlags.byCode[VMFlags.code(bytes[word], bytes[word + 1])] { found[found.count - 1].flags.formUnion(flag) }
                    word += 3
                }
            } else if first == UInt8(ascii: "K"), end - at > 15, !found.isEmpty {  // KernelPageSize:        4 kB
                let value = number(bytes[(at + 15)..<end])
                if value > 0 { found[found.count - 1].kernelPageSize = value << 10 }
            } else if first == UInt8(ascii: "P"), end - at > 14, bytes[at + 3] == UInt8(ascii: "t"), !found.isEmpty {  // ProtectionKey:         5
                found[found.count - 1].protectionKey = number(bytes[(at + 14)..<end])
            }
            at = end + 1
        }
    }

    private static func number(_ digits: ArraySlice<UInt8>) -> UInt64 { digits.reduce(0) { $1 >= 48 && $1 <= 57 ? $0 &* 10 &+ UInt64($1 - 48) : $0 } }

    private static func parseHead(_ line: ArraySlice<UInt8>) -> Mapping? {
        var at = line.startIndex
        func hex() -> UInt64 {
            var value: UInt64 = 0
            while at < line.endIndex {
                let byte = line[at]
                if byte >= 48 && byte <= 57 { value = value << 4 | UInt64(byte - 48) }
                else if byte >= 97 && byte <= 102 { value = value << 4 | UInt64(byte - 87) } else { break }
                at += 1
            }
            if at < line.endIndex { at += 1 }  // the separator
            return value
        }
        let start = hex(), end = hex()
        guard at + 5 <= line.endIndex, start < end else { return nil }
        let (r, w, x, p) = (line[at], line[at + 1], line[at + 2], line[at + 3])
        at += 5
        let offset = hex(), major = hex(), minor = hex()
        var inode: UInt64 = 0
        while at < line.endIndex, line[at] >= 48, line[at] <= 57 { inode = inode &* 10 &+ UInt64(line[at] - 48); at += 1 }
        while at < line.endIndex, line[at] == 32 { at += 1 }
        let name = unescape(line[at...])
        return Mapping(
            start: start, end: end, readable: r == 114, writable: w == 119, executable: x == 120, shared: p == 115, offset: offset,
            major: UInt32(truncatingIfNeeded: major), minor: UInt32(truncatingIfNeeded: minor), inode: inode, name: name)
    }

    /// maps writes a newline in a name as \012 (fs/proc/task_mmu.c, show_map_vma).
    private static func unescape(_ bytes: ArraySlice<UInt8>) -> String {
        let text = String(decoding: bytes, as: UTF8.self)
        guard bytes.contains(92) else { return text }
        return text.split(separator: "\\012", omittingEmptySubsequences: false).joined(separator: "\n")
    }
}
