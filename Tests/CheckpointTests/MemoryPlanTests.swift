@testable import Checkpoint
import ImageMessages
import Kinds
import Testing

@Suite("memory plan") struct MemoryPlanTests {
    static func mapping(_ start: UInt64, _ end: UInt64, status: UInt32 = 0x201, shmid: UInt64 = 0, flags: UInt32 = 0x22) -> VmaEntry {
        var entry = VmaEntry()
        (entry.start, entry.end, entry.pgoff, entry.shmid, entry.prot, entry.flags, entry.status, entry.fd) = (start, end, 0, shmid, 3, flags, status, -1)
        return entry
    }
    static func memory(_ mappings: [VmaEntry], executable: UInt32 = 1) -> MmEntry {
        var mm = MmEntry()
        (mm.vmas, mm.exeFileID) = (mappings, executable)
        return mm
    }
    let reserved: Range<UInt64> = 0x7000_0000..<0x7010_0000

    @Test("what parent and child have in common is inherited, all else is cleared and made")
    func inheritance() {
        let common = Self.mapping(0x10000, 0x20000), own = Self.mapping(0x40000, 0x50000)
        let plan = MemoryPlan(Self.memory([common, own]), parent: Self.memory([common, Self.mapping(0x40000, 0x48000)]), reserved: reserved)
        #expect(plan.inherited == [common] && plan.fresh == [own])
        #expect(plan.unmap == [0..<0x10000, 0x20000..<reserved.lowerBound, reserved.upperBound..<AddressSpace.end])
    }

    @Test("mappings of the parent's executable are not inherited by a child that runs another program")
    func executable() {
        let text = Self.mapping(0x10000, 0x20000, status: 0x41, shmid: 1, flags: 2)
        let plan = MemoryPlan(Self.memory([text], executable: 2), parent: Self.memory([text], executable: 1), reserved: reserved)
        #expect(plan.inherited.isEmpty && plan.fresh == [text])
    }

    @Test("memory that fork leaves out or wipes, or that is locked, is made anew")
    func notInherited() {
        var wiped = Self.mapping(0x10000, 0x20000)
        wiped.madv = 1 << 18
        let locked = Self.mapping(0x30000, 0x40000, flags: 0x2022)
        let plan = MemoryPlan(Self.memory([wiped, locked]), parent: Self.memory([wiped, locked]), reserved: reserved)
        #expect(plan.inherited.isEmpty && plan.fresh.count == 2)
    }

    @Test("the workspace's hole is free in every process of the tree")
    func hole() throws {
        let images = [Self.memory([Self.mapping(0x1000_0000, 0x3000_0000_0000)]), Self.memory([Self.mapping(0x4000_0000_0000, 0x7fff_0000_0000)])]
        let size = MemoryRestorer.Places.size
        let at = try MemoryPlan.commonHole(images, size: size)
        #expect(at >= 0x3000_0000_0000 && at + size <= 0x4000_0000_0000 && at % 4096 == 0)
        let full = [Self.memory([Self.mapping(0x10000, AddressSpace.end)])]
        #expect(throws: CheckpointError.self) { try MemoryPlan.commonHole(full, size: size) }
    }
}
