import CLinux
import Glibc

/// struct termios as the kernel has it (include/uapi/asm-generic/termbits.h): four flag words, the line discipline's number, 19 characters.
public struct TerminalSettings: Equatable, Sendable {
    public var input: UInt32 = 0, output: UInt32 = 0, control: UInt32 = 0, local: UInt32 = 0
    public var discipline: UInt8 = 0
    public var characters = [UInt8](repeating: 0, count: 19)
    public init() {}
    public static let canonical: UInt32 = 2, externalProcessing: UInt32 = 0o200000

    init(bytes: [UInt8]) {
        func word(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(bytes[at * 4 + $1]) << (8 * $1) } }
        (input, output, control, local) = (word(0), word(1), word(2), word(3))
        discipline = bytes[16]
        characters = Array(bytes[17..<36])
    }
    var bytes: [UInt8] {
        [input, output, control, local].flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } } + [discipline] + characters.prefix(19)
    }
}
public struct TerminalSize: Equatable, Sendable, BitwiseCopyable {
    public var rows: UInt16 = 0, columns: UInt16 = 0, width: UInt16 = 0, height: UInt16 = 0
    public init() {}
}

/// ioctl_tty(2).
extension FileDescriptor {
    public func terminalSettings(locked: Bool = false) throws(SyscallError) -> TerminalSettings {
        var bytes = [UInt8](repeating: 0, count: 36)
        try Syscall.call(
            locked ? "ioctl(TIOCGLCKTRMIOS)" : "ioctl(TCGETS)", SYS_ioctl, bytes: &bytes, at: 2, Int(number), locked ? 0x5456 : 0x5401, on: .fd(number))
        return TerminalSettings(bytes: bytes)
    }
    /// TCSETS: at once, without waiting for output or dropping input.
    public func setTerminalSettings(_ settings: TerminalSettings, locked: Bool = false) throws(SyscallError) {
        var bytes = settings.bytes
        try Syscall.call(
            locked ? "ioctl(TIOCSLCKTRMIOS)" : "ioctl(TCSETS)", SYS_ioctl, bytes: &bytes, at: 2, Int(number), locked ? 0x5457 : 0x5402, on: .fd(number))
    }
    public func terminalSize() throws(SyscallError) -> TerminalSize {
        var size = TerminalSize()
        try ioctl("TIOCGWINSZ", 0x5413, &size)
        return size
    }
    public func setTerminalSize(_ size: TerminalSize) throws(SyscallError) {
        var size = size
        try ioctl("TIOCSWINSZ", 0x5414, &size)
    }
    /// An ioctl that answers with an int.
    public func terminalNumber(_ name: String, _ request: UInt) throws(SyscallError) -> Int32 {
        var value: Int32 = 0
        try ioctl(name, request, &value)
        return value
    }
    /// An ioctl that takes the address of an int.
    public func setTerminalNumber(_ name: String, _ request: UInt, _ value: Int32) throws(SyscallError) {
        var value = value
        try ioctl(name, request, &value)
    }
    /// TIOCGPTN of a pseudoterminal's master: the number in /dev/pts.
    public func terminalIndex() throws(SyscallError) -> UInt32 { UInt32(bitPattern: try terminalNumber("TIOCGPTN", 0x8004_5430)) }
    public func lockTerminal(_ on: Bool) throws(SyscallError) { try setTerminalNumber("TIOCSPTLCK", 0x4004_5431, on ? 1 : 0) }
    public func setPacketMode(_ on: Bool) throws(SyscallError) { try setTerminalNumber("TIOCPKT", 0x5420, on ? 1 : 0) }
    /// TIOCGPTPEER: a new open file of the slave of this master, wherever devpts is mounted.
    public func openTerminalPeer(_ flags: Int32) throws(SyscallError) -> FileDescriptor {
        FileDescriptor(owning: Int32(try ioctl("TIOCGPTPEER", 0x5441, Int(flags | O_NOCTTY | O_CLOEXEC))))
    }
    /// poll(2) without waiting: the events that are there.
    public func poll(_ events: Int16) throws(SyscallError) -> Int16 {
        var request = pollfd(fd: number, events: events, revents: 0)
        try Syscall.call("poll", SYS_poll, value: &request, at: 0, 1, 0, on: .fd(number))
        return request.revents
    }
}
