import Glibc
@testable import Linux
import Testing

/// A short run of what Tests/Fuzz does for longer: nothing that the kernel could answer brings a parser down.
@Suite("damaged answers") struct KernelAnswerTests {
    /// SplitMix64, so that a failure can be repeated.
    private struct Seeded: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var word = state
            word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
            word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
            return word ^ (word >> 31)
        }
    }

    /// What this kernel answers about this process, or a message in the form of include/uapi/linux.
    static func sound(_ answer: KernelAnswer) throws -> [UInt8] {
        func attribute(_ type: UInt16, _ value: [UInt8]) -> [UInt8] {
            [UInt8(value.count + 4), 0, UInt8(type), 0] + value + [UInt8](repeating: 0, count: -value.count & 3)
        }
        switch answer {
        case .netlinkMessages: return little32(20) + little32(20) + [UInt8](repeating: 0, count: 12) + little32(20) + little32(3) + [UInt8](repeating: 0, count: 12)
        case .unixSocket:
            return [1, 1, 1, 0] + little32(4711) + little32(0) + little32(0) + attribute(0, Array("/run/q".utf8)) + attribute(1, little32(1) + little32(2)) + attribute(2, little32(9))
                + attribute(3, little32(7) + little32(8)) + attribute(4, little32(1) + little32(2)) + attribute(6, [1]) + attribute(7, little32(0))
        case .inetSocket: return [2, 1, 0, 0] + [UInt8](repeating: 1, count: 68) + attribute(8, [1]) + attribute(11, [0])
        case .netlinkSocket: return [16, 3, 0, 1] + [UInt8](repeating: 1, count: 24) + attribute(1, little32(3) + little32(1)) + attribute(4, little32(1))
        case .packetSocket: return [17, 3, 8, 0] + little32(4711) + [UInt8](repeating: 0, count: 8) + (0..<7).flatMap { attribute($0, [UInt8](repeating: 1, count: 40)) }
        case .nftablesTable: return [1, 0, 0, 0] + attribute(1, Array("table\0".utf8)) + attribute(2, [0, 0, 0, 2]) + attribute(6, [1, 2, 3])
        case .stat: return try Files.read("/proc/self/stat")
        case .keyedLines: return try Files.read("/proc/self/status")
        case .mappings: return Array(try Files.read("/proc/self/smaps").prefix(4000))
        case .socketTable: return Array("  sl  local_address\n   1: 0100007F:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 4711 2 0 0\n".utf8)
        case .igmp: return Array("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n".utf8)
        case .igmp6: return Array("1 lo ff020000000000000000000000000001 1 0000000C 0\n".utf8)
        case .ring: return Array(IOUringTests.text.utf8)
        }
    }

    @Test("a parser comes back from whatever it is given", arguments: KernelAnswer.allCases) func comesBack(_ answer: KernelAnswer) throws {
        let sound = try Self.sound(answer)
        answer.read(sound)
        var random = Seeded(state: UInt64(answer.rawValue))
        for _ in 0..<1000 {
            var bytes = sound
            for _ in 0..<Int.random(in: 1...6, using: &random) where !bytes.isEmpty {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<5, using: &random) {
                case 0: bytes.removeSubrange(at...)
                case 1: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 2: bytes[at] = [0, 0xff, 0x7f, 32, 10, 58].randomElement(using: &random)!
                case 3: bytes.remove(at: at)
                default: bytes.insert(contentsOf: Array(bytes[at..<min(bytes.count, at + 8)]), at: at)
                }
            }
            answer.read(bytes)
        }
    }
}
