import CLinux
import Glibc

/// A kernel error number, errno(3).
public struct Errno: Equatable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: Int32
    public init(_ rawValue: Int32) { self.rawValue = rawValue }
    public var description: String {
        let name = unsafe clinux_error_name(rawValue).map { unsafe String(cString: $0) } ?? "errno \(rawValue)"
        let text = unsafe clinux_error_text(rawValue).map { unsafe String(cString: $0) } ?? "unknown error"
        return "\(text) (\(name))"
    }
}

/// One failed system call: which, on what, why. Reads "openat '/proc/42/maps': No such process (ESRCH)".
public struct SyscallError: Error, Equatable, CustomStringConvertible {
    public enum Operand: Equatable, Sendable {
        case fd(Int32), task(ThreadID), path(String), remote(task: ThreadID, what: String)
    }
    public let call: String
    public let operand: Operand?
    public let errno: Errno
    public init(_ call: String, _ operand: Operand?, _ errno: Int32) {
        (self.call, self.operand, self.errno) = (call, operand, Errno(errno))
    }
    public var description: String {
        let object = switch operand {
        case .fd(let number): " on descriptor \(number)"
        case .task(let id): " of task \(id)"
        case .path(let path): " '\(path)'"
        case .remote(let task, let what): " in task \(task)" + (what.isEmpty ? "" : " (\(what))")
        case nil: ""
        }
        return "\(call)\(object): \(errno)"
    }
}

/// The id of a kernel task as this process sees it: a thread, or a process by its leader.
public struct ThreadID: Hashable, Comparable, Sendable, RawRepresentable, CustomStringConvertible, ExpressibleByIntegerLiteral {
    public let rawValue: Int32
    public init(rawValue: Int32) { self.rawValue = rawValue }
    public init(_ value: Int32) { rawValue = value }
    public init(integerLiteral value: Int32) { rawValue = value }
    public static func < (a: ThreadID, b: ThreadID) -> Bool { a.rawValue < b.rawValue }
    public var description: String { "\(rawValue)" }
    public static var current: ThreadID { ThreadID(getpid()) }
}

/// Their names are made up only where they are told.
public enum Syscall {
    /// The system call as the kernel answers it: a result, or minus errno. Arguments may be addresses of live memory.
    @unsafe public static func raw(_ number: Int32, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0, _ f: Int = 0) -> Int {
        clinux_syscall(Int(number), a, b, c, d, e, f)
    }

    /// Runs `body`, which answers as the kernel does (minus errno on failure), again for as long as a signal interrupts it.
    @discardableResult
    public static func check(
        _ call: @autoclosure () -> String, _ operand: @autoclosure () -> SyscallError.Operand? = nil, _ body: () -> Int
    ) throws(SyscallError) -> Int {
        while true {
            let result = body()
            if result >= 0 || result < -4095 { return result }
            if result != -Int(EINTR) { throw SyscallError(call(), operand(), Int32(-result)) }
        }
    }

    /// A system call of numbers only (no addresses), checked.
    @discardableResult
    public static func call(
        _ name: @autoclosure () -> String, _ number: Int32, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0,
        on operand: @autoclosure () -> SyscallError.Operand? = nil
    ) throws(SyscallError) -> Int {
        try check(name(), operand()) { unsafe raw(number, a, b, c, d, e) }
    }

    /// The call with `address` as argument `slot` (0...4) and the others around it, again for as long as a signal interrupts it.
    @unsafe private static func untilDone(_ number: Int32, address: Int, at slot: Int, _ a: Int, _ b: Int, _ c: Int, _ d: Int) -> Int {
        while true {
            let answer = switch slot {
            case 0: unsafe raw(number, address, a, b, c, d)
            case 1: unsafe raw(number, a, address, b, c, d)
            case 2: unsafe raw(number, a, b, address, c, d)
            case 3: unsafe raw(number, a, b, c, address, d)
            default: unsafe raw(number, a, b, c, d, address)
            }
            if answer != -Int(EINTR) { return answer }
        }
    }

    /// A system call whose argument `slot` (0...4) is the address of `path`.
    @discardableResult
    public static func call(
        _ name: @autoclosure () -> String, _ number: Int32, path: String, at slot: Int, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0
    ) throws(SyscallError) -> Int {
        let result: Int = unsafe path.withCString { unsafe untilDone(number, address: Int(bitPattern: $0), at: slot, a, b, c, d) }
        if result < 0 && result >= -4095 { throw SyscallError(name(), .path(path), Int32(-result)) }
        return result
    }

    /// A system call that reads or fills `value`, whose address is argument `slot`.
    @discardableResult
    public static func call<Value>(
        _ name: @autoclosure () -> String, _ number: Int32, value: inout Value, at slot: Int, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0,
        on operand: @autoclosure () -> SyscallError.Operand? = nil
    ) throws(SyscallError) -> Int {
        let result: Int = unsafe withUnsafeMutablePointer(to: &value) { unsafe untilDone(number, address: Int(bitPattern: $0), at: slot, a, b, c, d) }
        if result < 0 && result >= -4095 { throw SyscallError(name(), operand(), Int32(-result)) }
        return result
    }

    /// A system call that reads or fills `bytes`, whose address is argument `slot`; the length is the caller's to pass.
    @discardableResult
    public static func call(
        _ name: @autoclosure () -> String, _ number: Int32, bytes: inout [UInt8], at slot: Int, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0,
        on operand: @autoclosure () -> SyscallError.Operand? = nil
    ) throws(SyscallError) -> Int {
        let result: Int = unsafe bytes.withUnsafeMutableBytes { unsafe untilDone(number, address: Int(bitPattern: $0.baseAddress), at: slot, a, b, c, d) }
        if result < 0 && result >= -4095 { throw SyscallError(name(), operand(), Int32(-result)) }
        return result
    }
}
