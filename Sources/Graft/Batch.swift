public import CLinux
import Glibc
import Linux

/// System calls that a task runs by itself, in order, at full speed: an array of {number, six arguments, options, result}.
/// An argument may be the result of an earlier call; a failing call may end the batch. Strings and buffers travel with it.
public struct Batch {
    /// The place of a call in its batch: its result, or an argument of a later call.
    public struct Call: Equatable, Sendable { public let index: Int }

    /// An argument: a number or remote address, or the result of an earlier call (one such argument a call).
    public enum Argument: ExpressibleByIntegerLiteral, Sendable {
        case value(UInt64), result(Call)
        public init(integerLiteral value: Int) { self = .value(UInt64(bitPattern: Int64(value))) }
        public init(_ value: UInt64) { self = .value(value) }
        public init<Number: BinaryInteger>(_ value: Number) { self = .value(UInt64(truncatingIfNeeded: value)) }
    }

    /// Memory that travels with the batch: an address in the task, and where its bytes lie in `data`.
    public struct Buffer: Sendable {
        public let address: UInt64, offset: Int, count: Int
        public var argument: Argument { .value(address) }
    }

    let layout: ScratchLayout
    public private(set) var calls: [clinux_graft_call] = []
    private(set) var names: [String] = []
    var data: [UInt8] = []
    var readBack = false

    init(layout: ScratchLayout) { self.layout = layout }

    /// How many more calls fit.
    public var room: Int { layout.maximumCalls - calls.count }
    /// How many more bytes of strings and buffers fit.
    public var dataRoom: Int { layout.dataSize - data.count }
    public var isEmpty: Bool { calls.isEmpty }

    /// Adds a call. `mayFail`: go on with the next one, the caller looks at the result.
    @discardableResult
    public mutating func call(_ name: String, _ number: Int32, _ arguments: Argument..., mayFail: Bool = false) -> Call {
        append(name, number, arguments, mayFail: mayFail)
    }

    /// The same with a list of arguments.
    @discardableResult
    mutating func append(_ name: String, _ number: Int32, _ arguments: [Argument], mayFail: Bool) -> Call {
        precondition(arguments.count <= 6 && room > 0, "a batch is full: \(name)")
        var entry = clinux_graft_call()
        entry.number = number
        entry.options = mayFail ? 0 : 1
        var values = InlineArray<6, UInt64>(repeating: 0)
        for (slot, argument) in arguments.enumerated() {
            switch argument {
            case .value(let value): values[slot] = value
            case .result(let call):
                precondition(entry.from_argument == 0, "one result an entry: \(name)")
                entry.from_argument = UInt8(slot + 1)
                entry.from_call = UInt16(call.index)
            }
        }
        entry.arguments = (values[0], values[1], values[2], values[3], values[4], values[5])
        entry.result = Int64.min  // "did not run"
        calls.append(entry)
        names.append(name)
        return Call(index: calls.count - 1)
    }

    /// Bytes that the task will find at the returned address, aligned to 8.
    public mutating func bytes(_ bytes: [UInt8]) -> Buffer {
        data += [UInt8](repeating: 0, count: -data.count & 7)
        precondition(bytes.count <= dataRoom, "a batch's data does not fit")
        let offset = data.count
        data += bytes
        return Buffer(address: layout.data + UInt64(offset), offset: offset, count: bytes.count)
    }
    /// A buffer for the kernel to fill; its bytes come back with the results.
    public mutating func output(_ count: Int) -> Buffer {
        readBack = true
        return bytes([UInt8](repeating: 0, count: count))
    }
    public mutating func string(_ text: String) -> Argument { .value(bytes(Array(text.utf8) + [0]).address) }
    public mutating func words(_ words: [UInt64]) -> Buffer {
        bytes(unsafe words.withUnsafeBytes { unsafe Array($0) })
    }

    /// Puts the list and its data where the task will find them.
    func write(to memory: RemoteMemory) throws(SyscallError) {
        var end = clinux_graft_call()
        end.number = -1
        let list = calls + [end]
        // The kernel only reads the local buffers.
        let done = unsafe list.withUnsafeBytes { list in
            unsafe data.withUnsafeBytes { data in
                unsafe memory.transfer(
                    SYS_process_vm_writev, (UnsafeMutableRawBufferPointer(mutating: list), layout.base), (UnsafeMutableRawBufferPointer(mutating: data), layout.data))
            }
        }
        try memory.check("process_vm_writev", done, list.count * MemoryLayout<clinux_graft_call>.stride + data.count, at: layout.base)
    }

    /// Takes the results, and the data where there are buffers that the kernel has filled.
    mutating func read(from memory: RemoteMemory) throws(SyscallError) {
        let layout = self.layout, wanted = readBack ? data.count : 0
        var (list, content) = (calls, data)
        (calls, data) = ([], [])
        let done = unsafe list.withUnsafeMutableBytes { list in
            unsafe content.withUnsafeMutableBytes { content in
                unsafe memory.transfer(SYS_process_vm_readv, (list, layout.base), (UnsafeMutableRawBufferPointer(rebasing: content[..<wanted]), layout.data))
            }
        }
        (calls, data) = (list, content)
        try memory.check("process_vm_readv", done, calls.count * MemoryLayout<clinux_graft_call>.stride + wanted, at: layout.base)
    }

    // After the run.

    /// What the call returned: a result or minus errno; Int64.min when it did not run.
    public func result(_ call: Call) -> Int { Int(calls[call.index].result) }
    public func bytes(of buffer: Buffer) -> [UInt8] { Array(data[buffer.offset..<(buffer.offset + buffer.count)]) }
    public func word(of buffer: Buffer, _ index: Int = 0) -> UInt64 {
        precondition(index * 8 + 8 <= buffer.count)
        return unsafe data.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: buffer.offset + index * 8, as: UInt64.self) }
    }
    public func word32(of buffer: Buffer, _ index: Int = 0) -> UInt32 {
        precondition(index * 4 + 4 <= buffer.count)
        return unsafe data.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: buffer.offset + index * 4, as: UInt32.self) }
    }

    /// The first call that failed although it may not.
    func failure(in task: ThreadID) -> SyscallError? {
        for (index, call) in calls.enumerated() where call.options & 1 != 0 {
            if call.result < 0 && call.result >= -4095 { return SyscallError(names[index], .remote(task: task, what: "call \(index) of \(calls.count)"), Int32(-call.result)) }
            if call.result == Int64.min { return SyscallError(names[index], .remote(task: task, what: "did not run"), 4) }
        }
        return nil
    }
}

/// How the scratch memory of a graft is divided: the calls first, then data.
struct ScratchLayout: Sendable {
    let base: UInt64, size: Int
    /// Calls at the end of the list area that hold the clean-up list.
    static let reservedCalls = 16
    var maximumCalls: Int { size / 4 / 64 - 1 - Self.reservedCalls }
    var cleanup: UInt64 { base + UInt64((size / 4 / 64 - Self.reservedCalls) * 64) }
    var data: UInt64 { base + UInt64(size / 4) }
    var dataSize: Int { size - size / 4 }
}
