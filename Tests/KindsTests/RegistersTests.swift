import CLinux
import Glibc
import Graft
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("registers", .serialized) struct RegistersTests {
    /// The layout of the CPU that dumped the golden images.
    static let layout = ExtendedRegisters.Layout(places: [
        2: .init(offset: 576, size: 256), 4: .init(offset: 1024, size: 64), 5: .init(offset: 1088, size: 64),
        6: .init(offset: 1152, size: 512), 7: .init(offset: 1664, size: 1024), 9: .init(offset: 2688, size: 8),
    ])
    static let template: [UInt8] = {
        var bytes = [UInt8](repeating: 0, count: 2696)
        bytes.put(UInt32(0xffff), at: 28)
        return bytes
    }()

    @Test("general registers of CRIU's image come back unchanged")
    func general() throws {
        let golden = try TaskStateTests.goldenCore().threadInfo.gpregs
        #expect(UserX86RegsEntry(golden.registers) == golden)
        #expect(golden.objection == nil)
    }

    @Test("extended registers of CRIU's image come back unchanged")
    func extended() throws {
        let golden = try TaskStateTests.goldenCore().threadInfo.fpregs
        #expect(try ExtendedRegisters(golden, template: Self.template, Self.layout).entry(Self.layout) == golden)
    }

    @Test("an image without XSAVE part is loaded from its legacy area")
    func legacy() throws {
        var golden = try TaskStateTests.goldenCore().threadInfo.fpregs
        golden.clearXsave()
        golden.stSpace[0] = 7
        let area = try ExtendedRegisters(golden, template: Self.template, Self.layout).area
        #expect(area.word(UInt64.self, at: 512) == 3 && area.word(UInt32.self, at: 32) == 7)
    }

    @Test("registers that this CPU does not have are refused when they were used, and left out when not")
    func foreign() throws {
        let golden = try TaskStateTests.goldenCore().threadInfo.fpregs
        let small = ExtendedRegisters.Layout(places: [2: .init(offset: 576, size: 256)])
        let error = #expect(throws: ExtendedRegisters.Mismatch.self) { try ExtendedRegisters(golden, template: Self.template, small) }
        #expect(error?.description.contains("AVX-512") == true)
        var unused = golden
        unused.xsave.xstateBv = 2
        let area = try ExtendedRegisters(unused, template: [UInt8](Self.template.prefix(832)), small).area
        #expect(area.count == 832 && area.word(UInt64.self, at: 512) == 2)
        var keys = unused
        (keys.xsave.xstateBv, keys.xsave.pkru) = (keys.xsave.xstateBv | 1 << 9, [0x5555_5554, 0])
        #expect(throws: Never.self) { try ExtendedRegisters(keys, template: [UInt8](Self.template.prefix(832)), small) }
        keys.xsave.pkru = [0x5555_5550, 0]
        #expect(throws: ExtendedRegisters.Mismatch.self) { try ExtendedRegisters(keys, template: [UInt8](Self.template.prefix(832)), small) }
        // A CPU without XSAVE.
        #expect(try ExtendedRegisters(unused, template: [UInt8](Self.template.prefix(512)), .init(places: [:])).area.count == 512)
        #expect(throws: ExtendedRegisters.Mismatch.self) { try ExtendedRegisters(golden, template: [UInt8](Self.template.prefix(512)), .init(places: [:])) }
    }

    @Test("arrays of a wrong length are refused", arguments: 0..<4)
    func lengths(which: Int) throws {
        var image = try TaskStateTests.goldenCore().threadInfo.fpregs
        switch which {
        case 0: image.stSpace.removeLast()
        case 1: image.xmmSpace = []
        case 2: image.xsave.ymmhSpace.append(1)
        default: image.xsave.pkru = [1]
        }
        #expect(throws: ExtendedRegisters.Mismatch.self) { try ExtendedRegisters(image, template: Self.template, Self.layout) }
    }

    @Test("what is set in a task is what is read from it")
    func task() throws {
        let task = try StubTask()
        let traced = task.grafted.task
        let area = try traced.registerSet(Int(CLINUX_NT_X86_XSTATE))
        var entry = ExtendedRegisters(area: area).entry()
        entry.cwd = 0x27f
        entry.mxcsr = 0x9fc0
        for index in 0..<8 { (entry.stSpace[index * 4], entry.stSpace[index * 4 + 1], entry.stSpace[index * 4 + 2]) = (UInt32(index) + 1, 0x8000_0000, 0x3fff) }
        entry.twd = 0xff
        for index in entry.xmmSpace.indices { entry.xmmSpace[index] = UInt32(index) &* 0x9e37_79b9 }
        for index in entry.xsave.ymmhSpace.indices { entry.xsave.ymmhSpace[index] = UInt32(index) &* 0x85eb_ca6b }
        for index in entry.xsave.opmaskReg.indices { entry.xsave.opmaskReg[index] = UInt64(index) &* 0x1234_5678_9abc }
        for index in entry.xsave.zmmUpper.indices { entry.xsave.zmmUpper[index] = UInt64(index) &* 0x0101_0101_0101_0101 }
        for index in entry.xsave.hi16Zmm.indices { entry.xsave.hi16Zmm[index] = ~UInt64(index) }
        entry.xsave.xstateBv |= entry.xsave.ymmhSpace.isEmpty ? 3 : entry.xsave.zmmUpper.isEmpty ? 7 : 0xe7
        try traced.setRegisterSet(Int(CLINUX_NT_X86_XSTATE), ExtendedRegisters(entry, template: area).area)
        let after = ExtendedRegisters(area: try traced.registerSet(Int(CLINUX_NT_X86_XSTATE))).entry()
        #expect(after == entry)
    }

    @Test("a call that a stop interrupted is stored as one that starts again", arguments: [-512, -513, -514])
    func restarts(error: Int) {
        var registers = Registers()
        (registers.rax, registers.orig_rax, registers.rip) = (UInt64(bitPattern: Int64(error)), 34, 0x1002)
        let settled = InterruptedCall.settled(registers)
        #expect(settled.rax == 34 && settled.orig_rax == 34 && settled.rip == 0x1000)
    }

    @Test("EINTR of a mere stop is hidden, but for long limited waits and calls that nobody stopped")
    func hidden() {
        func settled(_ number: Int32, r10: Int = 0, result: Int = -4) -> UInt64 {
            var registers = Registers()
            (registers.orig_rax, registers.rax) = (UInt64(number), UInt64(bitPattern: Int64(result)))
            (registers.r10, registers.rip) = (UInt64(bitPattern: Int64(r10)), 0x1002)
            return InterruptedCall.settled(registers).rip
        }
        #expect(settled(SYS_epoll_wait, r10: -1) == 0x1000)
        #expect(settled(SYS_epoll_wait, r10: 500) == 0x1000)
        #expect(settled(SYS_epoll_wait, r10: 3_600_000) == 0x1002)
        #expect(settled(SYS_rt_sigtimedwait) == 0x1000)
        #expect(settled(SYS_read) == 0x1000 && settled(SYS_pause) == 0x1002)
        #expect(settled(SYS_epoll_wait, r10: -1, result: 1) == 0x1002)
    }
}
