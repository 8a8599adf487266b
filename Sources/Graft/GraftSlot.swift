public import CLinux
import Glibc
public import Linux

/// Where one copy of the graft lies in a task: its header, then its code.
struct GraftSlot {
    let base: UInt64
    let memory: Memory
    enum Memory {
        /// /proc/PID/mem, which writes where the task itself may not.
        case code(FileDescriptor)
        /// A workspace, which the task may write.
        case workspace(RemoteMemory)

        func write(_ bytes: [UInt8], at address: UInt64) throws(SyscallError) {
            switch self {
            case .code(let file): try file.write(bytes, at: Int(address))
            case .workspace(let memory): try memory.write(bytes, at: address)
            }
        }
    }

    static let code: [UInt8] = unsafe Array(UnsafeBufferPointer(start: clinux_graft_start(), count: clinux_graft_size()))
    static let headerSize = MemoryLayout<clinux_graft_header>.size
    static var size: UInt64 { UInt64(code.count + 15 & ~15) }

    func write(_ header: clinux_graft_header) throws(SyscallError) {
        let bytes = unsafe withUnsafeBytes(of: header) { unsafe Array($0) }
        try memory.write(bytes + Self.code[bytes.count...], at: base)
    }
    func setCleanup(_ address: UInt64) throws(SyscallError) { try store(address, 8) }
    func setScratch(size: UInt64) throws(SyscallError) { try store(size, 24) }
    func erase() throws(SyscallError) { try memory.write([UInt8](repeating: 0, count: Int(Self.size)), at: base) }
    private func store(_ value: UInt64, _ offset: UInt64) throws(SyscallError) {
        try memory.write((0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }, at: base + offset)
    }
}

/// The grafts of one address space during a dump: two slots, so that the next thread is in before the last one leaves, and
/// a scratch mapping that the last one takes away. Whenever this process dies, some task of the address space stands in a
/// graft that knows the scratch mapping, or there is none.
public final class ProcessGraft {
    public let process: ThreadID
    let slots: [GraftSlot]
    let scratch: ScratchLayout
    private(set) var current: (grafted: GraftedTask, slot: Int)?
    private let virtualProcess: Int32?
    let caught: UInt64

    /// Bytes of the task's memory that hold grafts while this lives; they were zero before and are zero after.
    public var ranges: [Range<UInt64>] { slots.map { $0.base..<($0.base + GraftSlot.size) } }
    public var scratchRange: Range<UInt64> { scratch.base..<(scratch.base + UInt64(scratch.size)) }

    /// Finds a place for two grafts in the zero bytes behind the vDSO's code (or behind any other code), and a hole for the scratch mapping.
    /// - Parameters:
    ///   - caught: the signals that the process catches, where they are known already.
    ///   - virtualProcess: the process's id in its own pid namespace, where that differs.
    public init(in process: ThreadID, mappings: [Mapping], caught: UInt64? = nil, scratchSize: Int = 256 << 10, virtualProcess: Int32? = nil) throws(SyscallError) {
        self.process = process
        self.virtualProcess = virtualProcess
        if let caught { self.caught = caught } else { self.caught = try GraftedTask.caughtSignals(of: process) }
        let memory = try FileDescriptor.open("/proc/\(process)/mem", O_RDWR)
        let needed = Int(GraftSlot.size * 2)
        let candidates = mappings.filter { $0.name == "[vdso]" } + mappings.filter { $0.executable && !$0.shared && $0.name != "[vdso]" && $0.start < 1 << 47 }
        for mapping in candidates {
            let tail = try memory.read(needed, at: Int(mapping.end) - needed)
            guard tail.count == needed, Self.isFree(tail) else { continue }
            slots = [0, 1].map { GraftSlot(base: mapping.end - UInt64(needed) + UInt64($0) * GraftSlot.size, memory: .code(memory)) }
            scratch = ScratchLayout(base: try Self.hole(in: mappings, size: UInt64(scratchSize), process), size: scratchSize)
            return
        }
        throw SyscallError("find \(needed) unused bytes of code", .task(process), ENOSPC)
    }

    /// Where a conductor that was killed may have left grafts: the tail of the vDSO.
    public static func usualPlace(in mappings: [Mapping]) -> Range<UInt64>? {
        mappings.first { $0.name == "[vdso]" }.map { ($0.end - GraftSlot.size * 2)..<$0.end }
    }

    /// Zero, or left over from a graft whose conductor was killed (the caller has made sure that no task stands in it).
    private static func isFree(_ tail: [UInt8]) -> Bool {
        if tail.allSatisfy({ $0 == 0 }) { return true }
        let size = Int(GraftSlot.size), code = GraftSlot.code[GraftSlot.headerSize...]
        return [0, 1].allSatisfy { index in
            let slot = tail[(index * size)..<((index + 1) * size)]
            return slot.allSatisfy { $0 == 0 } || slot[(slot.startIndex + GraftSlot.headerSize)..<(slot.startIndex + GraftSlot.code.count)].elementsEqual(code)
        }
    }

    /// An address in the middle of the largest hole: far from what grows.
    private static func hole(in mappings: [Mapping], size: UInt64, _ process: ThreadID) throws(SyscallError) -> UInt64 {
        var best: (start: UInt64, length: UInt64) = (0, 0)
        var at: UInt64 = 0x10000
        for mapping in mappings where mapping.start < 1 << 47 {
            if mapping.start > at, mapping.start - at > best.length { best = (at, mapping.start - at) }
            at = max(at, mapping.end)
        }
        guard best.length > size + 0x20000 else { throw SyscallError("find a hole of \(size) bytes", .task(process), ENOMEM) }
        return (best.start + best.length / 2) & ~0xfff
    }

    /// Puts the next thread into the graft, and takes the one before out. The thread must stand in a ptrace stop.
    /// - Parameter standing: its registers outside of a critical section and its mask, where they were read already.
    public func enter(_ task: TracedTask, standing: (registers: Registers, mask: UInt64)? = nil, virtualThread: Int32? = nil) throws(SyscallError) -> GraftedTask {
        if let current, current.grafted.task.id == task.id { return current.grafted }
        let index = current.map { 1 - $0.slot } ?? 0
        let numbers = (tgid: virtualProcess ?? process.rawValue, tid: virtualThread ?? task.id.rawValue)
        let grafted = try GraftedTask(entering: task, of: process, slot: slots[index], scratch: scratch, caught: caught, standing: standing, numbers: numbers)
        if let current { try current.grafted.leave() } else {
            let flags = UInt64(0x22 | 0x100000)  // MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
            let address = try grafted.step(SYS_mmap, scratch.base, UInt64(scratch.size), 3, flags, UInt64.max, 0)
            guard address == Int(scratch.base) else {
                let code = address < 0 ? Int32(-address) : EEXIST
                try? grafted.leave()
                throw SyscallError("mmap", .remote(task: task.id, what: "scratch memory"), code)
            }
        }
        current = (grafted, index)
        return grafted
    }

    /// Takes everything out: scratch, the last thread, the grafts. The threads stay stopped.
    public func remove() throws(SyscallError) {
        guard let current else { return }
        self.current = nil
        try current.grafted.unmapScratch()
        try current.grafted.leave()
        for slot in slots { try slot.erase() }
    }

    /// The task is going to be killed: nothing to put back.
    public func abandon() { current = nil }

    deinit { try? remove() }
}
@available(*, unavailable) extension ProcessGraft: Sendable {}
