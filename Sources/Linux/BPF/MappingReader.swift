import CLinux
import Glibc

/// Reads mappings with their flags. smaps, which has them, counts the pages of each mapping, 25 ms for a GiB, while the task waits; of large trees
/// a BPF iterator (task_vma) gives the flags as the kernel keeps them, without a look at a page. Where that can't be, and for a process with a flag whose
/// number we could not make sure of, it is smaps.
public final class MappingReader: Sendable {
    /// One mapping as the iterator writes it.
    private struct Row { let start: UInt64, end: UInt64, flags: UInt64 }
    private static let rowSize = 24

    public static let least: UInt64 = 64 << 20

    /// The iterator's program, and the numbers that were seen to mean what we take them for.
    private struct Iterator: Sendable { let program: FileDescriptor, known: [(bit: UInt64, flag: VMFlags)], understood: UInt64 }
    /// Made when it is asked for first: a migration reads the same tree again and again.
    private static let iterator: Iterator? = {
        guard let program = try? load(), let known = confirmed(by: program) else { return nil }
        return Iterator(program: program, known: known, understood: known.reduce(meaningless) { $0 | $1.bit })
    }()
    private let iterator: Iterator?

    /// smaps, whatever the tree.
    public static let slow = MappingReader(resident: 0)

    /// - Parameter resident: memory of the processes to read, bytes. What the iterator costs once, 3 ms, a tree with less than 64 MiB does not bring back.
    public init(resident: UInt64) { iterator = resident >= Self.least ? Self.iterator : nil }

    /// Whether the iterator is there, and its numbers are what we take them for.
    public var isFast: Bool { iterator != nil }

    public func all(of process: ThreadID) throws(SyscallError) -> [Mapping] {
        if let found = try? fast(process) { return found }
        return try Mapping.all(of: process, withFlags: true)
    }

    /// VM_* of include/linux/mm.h. Not those that need more than the flag (VM_HUGETLB: the page size), and not what only few systems have.
    private static let numbers: [(bit: UInt64, flag: VMFlags)] = [
        (1 << 8, .growsDown), (1 << 10, .pureFrameNumbers), (1 << 13, .locked), (1 << 14, .io), (1 << 15, .sequential), (1 << 16, .random), (1 << 17, .dontFork),
        (1 << 21, .noReserve), (1 << 25, .wipeOnFork), (1 << 26, .dontDump), (1 << 29, .hugePage), (1 << 30, .noHugePage),
    ]
    /// Access and what access there may be; VM_UFFD_WP, VM_DONTEXPAND, VM_LOCKONFAULT, VM_ACCOUNT, VM_SYNC, VM_PAT, VM_SOFTDIRTY, VM_MIXEDMAP.
    private static let meaningless: UInt64 = 0xff | 1 << 12 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 24 | 1 << 27 | 1 << 28

    private func fast(_ process: ThreadID) throws(SyscallError) -> [Mapping]? {
        guard let iterator else { return nil }
        var found = try Mapping.all(of: process, withFlags: false)
        var rows = try Self.rows(iterator.program, process)[...]
        for index in found.indices where found[index].name != "[vsyscall]" {
            guard let row = rows.popFirst(), row.start == found[index].start, row.end == found[index].end, row.flags & ~iterator.understood == 0 else { return nil }
            found[index].flags = Self.flags(row, iterator.known)
        }
        return rows.isEmpty ? found : nil
    }
    private static func flags(_ row: Row, _ known: [(bit: UInt64, flag: VMFlags)]) -> VMFlags { known.reduce(into: VMFlags()) { if row.flags & $1.bit != 0 { $0.formUnion($1.flag) } } }

    /// For each mapping the iterator writes vm_start, vm_end and vm_flags, in native order.
    private static func load() throws(SyscallError) -> FileDescriptor? {
        guard let types = KernelTypes.find(function: "bpf_iter_task_vma", structure: "vm_area_struct", members: ["vm_start", "vm_end", "vm_flags"]) else { return nil }
        /// struct bpf_insn: opcode, two registers, offset, immediate value.
        func instruction(_ code: UInt64, _ to: UInt64 = 0, _ from: UInt64 = 0, offset: Int = 0, value: Int = 0) -> UInt64 {
            code | to << 8 | from << 12 | UInt64(UInt16(truncatingIfNeeded: offset)) << 16 | UInt64(UInt32(truncatingIfNeeded: value)) << 32
        }
        let move: UInt64 = 0xbf, set: UInt64 = 0xb7, add: UInt64 = 0x07, load: UInt64 = 0x79, store: UInt64 = 0x7b, call: UInt64 = 0x85, exit: UInt64 = 0x95
        // struct bpf_iter__task_vma: meta, whose first member is the file to write to; task; vma, which is NULL after the last one.
        var program = [
            instruction(load, 7, 1, offset: 16), instruction(load, 1, 1, offset: 0), instruction(load, 1, 1, offset: 0),
            instruction(0x55 /* if r7 != 0, two on */, 7, offset: 2), instruction(set, 0), instruction(exit),
        ]
        for (index, offset) in types.offsets.enumerated() {
            program += [instruction(load, 2, 7, offset: offset), instruction(store, 10, 2, offset: 8 * index - rowSize)]
        }
        program += [
            instruction(move, 2, 10), instruction(add, 2, value: -rowSize), instruction(set, 3, value: rowSize), instruction(call, value: 127 /* bpf_seq_write */),
            instruction(set, 0), instruction(exit),
        ]
        return try BPF.loadIterator(program, function: types.function)
    }

    private static func rows(_ program: FileDescriptor, _ process: ThreadID) throws(SyscallError) -> [Row] {
        let file = try BPF.iterate(program, task: process)
        var rows = [Row](), buffer = [UInt8](repeating: 0, count: rowSize << 10), last: UInt64 = 0
        while true {
            let got = try file.read(into: &buffer, from: 0, atMost: .max)
            if got == 0 { return rows }
            for at in stride(from: 0, to: got - got % rowSize, by: rowSize) {
                let row = Row(start: buffer.word(at: at), end: buffer.word(at: at + 8), flags: buffer.word(at: at + 16))
                // Of a task with many mappings the iterator begins anew after the last (seen on 6.18).
                if row.start < last { return rows }
                last = row.end
                rows.append(row)
            }
        }
    }

    // MARK: Making sure

    /// The numbers are the kernel's own affair: they count when smaps says of our own mappings, of which some have each flag, what they say. nil: it does not.
    private static func confirmed(by program: FileDescriptor) -> [(bit: UInt64, flag: VMFlags)]? {
        let samples = Samples()
        defer { withExtendedLifetime(samples) {} }
        guard let rows = try? rows(program, .current), let mappings = try? Mapping.all(of: .current, withFlags: true) else { return nil }
        var seen: VMFlags = []
        let byStart = Dictionary(rows.map { ($0.start, $0) }) { first, _ in first }
        for mapping in mappings {
            guard let row = byStart[mapping.start], row.end == mapping.end else { continue }
            let flags = flags(row, numbers)
            guard flags == mapping.flags.intersection(numbers.reduce(into: VMFlags()) { $0.formUnion($1.flag) }) else { return nil }
            seen.formUnion(flags)
        }
        return numbers.filter { seen.contains($0.flag) }
    }

    /// Pages of ours with one flag each.
    @safe private final class Samples {
        private let base: Int
        private static let advice = [MADV_SEQUENTIAL, MADV_RANDOM, MADV_DONTFORK, MADV_DONTDUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_WIPEONFORK]
        private static let count = 2 * (advice.count + 2), page = 4096
        init() {
            base = unsafe Syscall.raw(SYS_mmap, 0, Self.count * Self.page, Int(PROT_READ | PROT_WRITE), Int(MAP_PRIVATE | MAP_ANONYMOUS), -1, 0)
            guard base > 0 else { return }
            var at = base
            for advice in Self.advice {
                _ = unsafe Syscall.raw(SYS_madvise, at, Self.page, Int(advice))
                at += 2 * Self.page
            }
            _ = unsafe Syscall.raw(SYS_mlock, at, Self.page)
            _ = unsafe Syscall.raw(SYS_mmap, at + 2 * Self.page, Self.page, Int(PROT_READ | PROT_WRITE), Int(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED), -1, 0)
        }
        deinit { if base > 0 { _ = unsafe Syscall.raw(SYS_munmap, base, Self.count * Self.page) } }
    }
}
