import Glibc

/// io_uring(7), as far as one needs it who saves rings: numbers, their layout, and what fdinfo says of one.
public enum IOUring {
    public static let setup: Int32 = 425, enter: Int32 = 426, register: Int32 = 427
    /// Where a descriptor maps the submission entries; the two rings are at 0.
    public static let entriesOffset: UInt64 = 0x1000_0000

    /// IORING_SETUP_*.
    public enum Setup {
        public static let completionSize: UInt32 = 1 << 3, submitAll: UInt32 = 1 << 7, taskrunFlag: UInt32 = 1 << 9, wideSubmissions: UInt32 = 1 << 10
        public static let wideCompletions: UInt32 = 1 << 11, singleIssuer: UInt32 = 1 << 12, deferTaskrun: UInt32 = 1 << 13
    }
    /// IORING_ENTER_*.
    public enum Enter { public static let getEvents = 1, extendedArgument = 8, registeredRing = 16 }
    /// IORING_REGISTER_*.
    public enum Register {
        public static let eventfd = 4, filesUpdate = 6, probe = 8, files = 13, buffers = 15, buffersUpdate = 16, bufferRingStatus = 26
    }

    /// struct io_uring_params (120 bytes) as a request.
    public static func parameters(flags: UInt32, completions: UInt32) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 120)
        bytes.put(completions, at: 4)
        bytes.put(flags | Setup.completionSize, at: 8)
        return bytes
    }
}

/// Where the words of a ring lie in its memory: this kernel's choice, and part of what a program has been told.
public struct IOUringLayout: Equatable, Sendable {
    public let submissions: UInt32, completions: UInt32
    /// IORING_SETUP_SQE128 and IORING_SETUP_CQE32.
    public let shape: UInt32
    /// Of the words and arrays in the memory of the rings.
    public let submissionHead: Int, submissionTail: Int, array: Int, completionHead: Int, completionTail: Int, entries: Int

    /// The layout of a ring like this one on this kernel, which makes one for a moment.
    public init(submissions: UInt32, completions: UInt32, shape: UInt32) throws(SyscallError) {
        var bytes = IOUring.parameters(flags: shape, completions: completions)
        _ = FileDescriptor(owning: Int32(try Syscall.call("io_uring_setup", IOUring.setup, bytes: &bytes, at: 1, Int(submissions))))
        func offset(_ at: Int) -> Int { Int(bytes.word(UInt32.self, at: at)) }
        (self.submissions, self.completions, self.shape) = (bytes.word(at: 0), bytes.word(at: 4), shape)
        (submissionHead, submissionTail, array) = (offset(40), offset(44), offset(64))
        (completionHead, completionTail, entries) = (offset(80), offset(84), offset(100))
    }

    /// Bytes of the rings, with or without the array of submissions, and of the submission entries.
    public func ringsSize(withArray: Bool) -> Int {
        withArray ? array + Int(submissions) * 4 : entries + Int(completions) * (shape & IOUring.Setup.wideCompletions != 0 ? 32 : 16)
    }
    public var submissionsSize: Int { Int(submissions) * (shape & IOUring.Setup.wideSubmissions != 0 ? 128 : 64) }
    /// What a program has been told.
    public var offsets: [UInt32] { [submissionHead, submissionTail, array, completionHead, completionTail, entries].map { UInt32($0) } }
}

/// What fdinfo says of a ring (io_uring/fdinfo.c).
public struct IOUringInfo: Equatable, Sendable {
    public struct Buffer: Equatable, Sendable { public var address: UInt64, length: UInt64 }
    public var submissions: UInt32 = 0, completions: UInt32 = 0
    /// As they stand in the ring; and how many requests and completions the kernel has counted.
    public var submissionHead: UInt32 = 0, submissionTail: UInt32 = 0, completionHead: UInt32 = 0, completionTail: UInt32 = 0
    public var submitted: UInt32 = 0, completed: UInt32 = 0
    /// The thread that submits (SQPOLL); -1 without one.
    public var submitter: Int32 = -1
    /// Slots in all, and what is in those that are taken: files by their paths.
    public var fileSlots: UInt32 = 0, files: [UInt32: String] = [:], bufferSlots: UInt32 = 0, buffers: [UInt32: Buffer] = [:]
    /// Requests that wait for a file to become ready; completions that had no room in the ring.
    public var waiting = 0, overflown = 0
    /// Whether it shows a submission, whether that is of 128 bytes; whether a completion that it shows is of 32.
    public var showsSubmission = false, hasWideSubmission = false, hasWideCompletion = false

    /// Nil for a text that is not of a ring.
    public init?(parsing text: String) {
        var section = ""
        for line in text.split(separator: "\n") {
            if line.first == " " || line.first == "\t" {
                add(line.drop { $0 == " " || $0 == "\t" }, to: section)
                continue
            }
            guard let colon = line.firstIndex(of: ":") else { continue }
            section = String(line[..<colon])
            set(section, line[line.index(after: colon)...].drop { $0 == " " || $0 == "\t" })
        }
        if submissions == 0 || completions == 0 { return nil }
    }

    private mutating func set(_ key: String, _ value: Substring) {
        let number = UInt32(value) ?? (value.hasPrefix("0x") ? UInt32(value.dropFirst(2), radix: 16) : nil) ?? 0
        switch key {
        case "SqMask": submissions = number &+ 1
        case "CqMask": completions = number &+ 1
        case "SqHead": submissionHead = number
        case "SqTail": submissionTail = number
        case "CachedSqHead": submitted = number
        case "CqHead": completionHead = number
        case "CqTail": completionTail = number
        case "CachedCqTail": completed = number
        case "SqThread": submitter = Int32(value) ?? -1
        case "UserFiles": fileSlots = number
        case "UserBufs": bufferSlots = number
        default: break
        }
    }

    /// An indented line: "0: /dev/null" of UserFiles, "0: 0x55c032de50e0/5000" of UserBufs ...
    private mutating func add(_ line: Substring, to section: String) {
        if section == "PollList" { waiting += 1 }
        if section == "CqOverflowList" { overflown += 1 }
        guard let colon = line.firstIndex(of: ":"), let slot = UInt32(line[..<colon]) else { return }
        let value = line[line.index(after: colon)...].drop { $0 == " " }
        switch section {
        case "SQEs": (showsSubmission, hasWideSubmission) = (true, hasWideSubmission || value.contains(" e0:"))
        case "CQEs": hasWideCompletion = hasWideCompletion || value.contains("extra1:")
        case "UserFiles" where value != "<none>": files[slot] = Self.unescaped(value)  // older kernels (6.1) show empty slots, too
        case "UserBufs":
            let parts = value.split(separator: "/")
            guard parts.count == 2, let address = UInt64(parts[0].dropFirst(2), radix: 16), let length = UInt64(parts[1]) else { return }
            buffers[slot] = Buffer(address: address, length: length)
        default: break
        }
    }

    /// Blanks and backslashes in paths are written in octal (seq_file_path): "\040".
    private static func unescaped(_ text: Substring) -> String {
        var bytes = [UInt8](), rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3, let code = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8) {
                bytes.append(code)
                rest = rest.dropFirst(3)
            } else { bytes.append(byte) }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
