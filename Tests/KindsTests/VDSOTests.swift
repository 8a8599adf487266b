import Kinds
import Linux
import Testing

@Suite("vDSO") struct VDSOTests {
    private func own() throws -> VDSO { try #require(VDSO.ofThisKernel, "this kernel gives its processes a vDSO") }

    @Test("its functions are found") func functions() throws {
        let vdso = try own()
        for name in ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"] {
            let function = try #require(vdso.functions[name], "\(name)")
            #expect(function.size > 0 && function.offset + function.size <= UInt64(vdso.content.count))
        }
    }

    @Test("every function leads on to the one of the same name, near and far", arguments: [0x7fff_0000_0000, 0x5555_0000_0000] as [UInt64])
    func leadsOn(place: UInt64) throws {
        let vdso = try own(), base: UInt64 = 0x7fff_1234_5000
        let content = try vdso.ledOn(from: base, to: vdso, at: place)
        #expect(content.count == vdso.content.count)
        for (name, function) in vdso.functions where name.hasPrefix("__vdso_clock") || name == "__vdso_time" {
            let at = Int(function.offset), start = base + function.offset
            let target = content[at] == 0xe9 ? start &+ 5 &+ UInt64(bitPattern: Int64(content.word(Int32.self, at: at + 1))) : content.word(UInt64.self, at: at + 6)
            #expect(target == place + function.offset, "\(name)")
        }
    }

    @Test("a function that this kernel does not have becomes its system call") func systemCalls() throws {
        let vdso = try own(), name = Array("__vdso_clock_gettime\0".utf8)
        // This kernel's, with another name for the function.
        let at = try #require((0..<(vdso.content.count - name.count)).first { vdso.content[$0..<($0 + name.count)].elementsEqual(name) })
        var bytes = vdso.content
        bytes[at + 7] = UInt8(ascii: "k")
        let without = try #require(VDSO(bytes))
        #expect(without.functions["__vdso_clock_gettime"] == nil && without.functions["__vdso_klock_gettime"] != nil)
        let content = try vdso.ledOn(from: 0x7000_0000_0000, to: without, at: 0x7000_1000_0000)
        let offset = try #require(vdso.functions["__vdso_clock_gettime"]).offset
        // The weak name is still there, and may be written after the other; both are right.
        let code = Array(content[Int(offset)..<Int(offset) + 8])
        #expect(code == [0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0xc3] || code[0] == 0xe9)
    }

    @Test("behind a system call a thread goes on anywhere, elsewhere within it not") func independence() throws {
        let vdso = try own()
        #expect(!vdso.isIndependent(at: 0x100) || vdso.content[0xfe] == 0x0f)
        #expect(vdso.isIndependent(at: UInt64(vdso.content.count)))
        let call = try #require((2..<vdso.content.count).first { vdso.content[$0 - 2] == 0x0f && vdso.content[$0 - 1] == 0x05 })
        #expect(vdso.isIndependent(at: UInt64(call)))
    }

    @Test("what is no library is none, wherever it is cut or changed") func nonsense() throws {
        let content = try own().content
        #expect(VDSO([]) == nil)
        #expect(VDSO([UInt8](repeating: 0, count: 8192)) == nil)
        for count in stride(from: 0, to: content.count, by: 61) { _ = VDSO(Array(content.prefix(count))) }
        var bytes = content
        for at in 0..<1024 {
            bytes[at] ^= 0xff
            if let changed = VDSO(bytes) { _ = try? changed.ledOn(from: 0x7000_0000_0000, to: changed, at: 0x1000_0000) }
            bytes[at] = content[at]
        }
    }
}
