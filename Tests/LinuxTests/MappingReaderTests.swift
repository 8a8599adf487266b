import Glibc
@testable import Linux
import Testing

@Suite("mappings without a look at their pages") struct MappingReaderTests {
    /// This process, with advice given, locked, shared, file-backed and guarded memory in it.
    @Test("are those of smaps, flag for flag")
    func same() throws {
        let reader = MappingReader(resident: .max)
        // Linux 6.1 and later describe their types to root if they are configured so; there the iterator must be there.
        #expect(reader.isFast == (unsafe access("/sys/kernel/btf/vmlinux", R_OK) == 0))
        let pages = 16, advice = [MADV_SEQUENTIAL, MADV_RANDOM, MADV_DONTFORK, MADV_DONTDUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_WIPEONFORK]
        let base = unsafe mmap(nil, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        defer { unsafe munmap(base, pages * 4096) }
        for (index, advice) in advice.enumerated() { #expect(unsafe madvise(base + 2 * index * 4096, 4096, advice) == 0) }
        #expect(unsafe mlock(base + 14 * 4096, 4096) == 0)
        let shared = unsafe mmap(nil, 8192, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)!
        defer { unsafe munmap(shared, 8192) }
        let start = UInt64(UInt(bitPattern: base)), mine = start..<(start + UInt64(pages) * 4096)
        let theirs = UInt64(UInt(bitPattern: shared))
        // Other tests' threads map and unmap meanwhile.
        for _ in 0..<100 {
            let slow = try MappingReader.slow.all(of: .current), fast = try reader.all(of: .current), again = try MappingReader.slow.all(of: .current)
            guard slow == again else { continue }
            #expect(fast == slow)
            let flags = fast.filter { mine.contains($0.start) && !$0.flags.isEmpty }.map(\.flags)
            #expect(flags.count == 8)
            for flag in [VMFlags.sequential, .random, .dontFork, .dontDump, .hugePage, .noHugePage, .wipeOnFork, .locked] { #expect(flags.contains { $0.contains(flag) }) }
            #expect(fast.first { $0.start == theirs }?.flags.contains(.noReserve) == true)
            return
        }
        Issue.record("the mappings of this process never stood still")
    }

    @Test("a small tree is read from smaps") func small() { #expect(!MappingReader(resident: 1 << 20).isFast) }

    /// A description of two structures and a function: struct vm { u64 a; union { u64 b; u64 c }; }
    @Test("members are found in the kernel's description of its types, also in unnamed parts; a damaged one is not believed")
    func types() {
        let strings = Array("\0vm\0a\0b\0c\0walk\0int\0".utf8)
        func place(_ name: String) -> UInt32 {
            let wanted = Array(name.utf8) + [0]
            return UInt32((1..<strings.count).first { Array(strings[$0..<min(strings.count, $0 + wanted.count)]) == wanted && strings[$0 - 1] == 0 }!)
        }
        func type(_ name: UInt32, _ kind: UInt32, _ count: UInt32 = 0, _ size: UInt32 = 0) -> [UInt8] { little32(name) + little32(kind << 24 | count) + little32(size) }
        func member(_ name: UInt32, _ type: UInt32, _ bit: UInt32) -> [UInt8] { little32(name) + little32(type) + little32(bit) }
        let types = type(place("int"), 1, 0, 8) + little32(64)
            + type(0, 5, 2, 8) + member(place("b"), 1, 0) + member(place("c"), 1, 0)
            + type(place("vm"), 4, 2, 24) + member(place("a"), 1, 0) + member(0, 2, 128)
            + type(place("walk"), 12, 0, 1)
        var bytes = [0x9f, 0xeb, 1, 0] + little32(24) + little32(0) + little32(UInt32(types.count)) + little32(UInt32(types.count)) + little32(UInt32(strings.count))
        bytes += types + strings
        func find(_ bytes: [UInt8], _ members: [String], function: String = "walk") -> KernelTypes.Found? {
            KernelTypes.find(in: bytes.span, function: function, structure: "vm", members: members)
        }
        #expect(find(bytes, ["a", "b", "c"]) == KernelTypes.Found(function: 4, offsets: [0, 16, 16]))
        #expect(find(bytes, ["d"]) == nil)
        #expect(find(bytes, ["a"], function: "vm") == nil, "a structure is no function")
        for length in 0..<bytes.count { _ = find(Array(bytes.prefix(length)), ["a", "c"]) }
        var random = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            var damaged = bytes
            damaged[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            if let found = find(damaged, ["a", "c"]) { #expect(found.offsets.count == 2) }
        }
    }
}
