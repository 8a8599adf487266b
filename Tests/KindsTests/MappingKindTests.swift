import Linux
import Testing

@testable import Kinds

@Suite("kinds of mappings") struct MappingKindTests {
    private func kind(_ access: String, key: Int) -> MappingKind? {
        Mapping.parse(Array("7f00-8f00 \(access) 00000000 00:00 0 \nProtectionKey:  \(key)\nVmFlags: rd\n".utf8)).first.map { MappingKind($0) }
    }

    @Test("memory under a protection key is refused by the key's number; the kernel's key of execute-only memory is not") func protectionKeys() {
        #expect(kind("rw-p", key: 0) == .anonymous)
        #expect(kind("--xp", key: 1) == .anonymous)
        guard case .unsupported(let reason) = kind("rw-p", key: 7) else { return #expect(Bool(false), "memory under a key is taken") }
        #expect(reason.contains("protection key 7"))
    }
}
