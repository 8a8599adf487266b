import Testing

@testable import Checkpoint

@Suite("progress") struct ProgressTests {
    /// A progress whose clock and screen are ours.
    private final class Screen {
        var now: UInt64 = 1
        var shown: [String] = []
        func progress() -> Progress { Progress(clock: { self.now }, show: { self.shown.append($0) }) }
    }

    private static let second: UInt64 = 1_000_000_000

    @Test("keeps silent in the first half second") func silence() {
        let screen = Screen(), progress = screen.progress()
        for _ in 0..<49 {
            screen.now += 10_000_000
            progress.update(phase: "memory", done: 1, total: 2)
        }
        progress.end()
        #expect(screen.shown.isEmpty)
    }

    @Test("is shown at most ten times a second, and erased") func rate() {
        let screen = Screen(), progress = screen.progress()
        for _ in 0..<2000 {
            screen.now += 1_000_000
            progress.update(phase: "memory", done: 1, total: 2)
        }
        #expect((14...16).contains(screen.shown.count), "\(screen.shown.count)")
        let width = screen.shown[screen.shown.count - 1].utf8.count - 1
        progress.end()
        #expect(screen.shown.last == "\r" + String(repeating: " ", count: width) + "\r")
    }

    @Test("says share, bytes, rate and time left") func line() {
        let screen = Screen(), progress = screen.progress()
        progress.update(phase: "memory", done: 0, total: 1 << 30)
        screen.now += 2 * Self.second
        progress.update(phase: "memory", done: 1 << 28, total: 1 << 30)
        #expect(screen.shown == ["\rmemory 25%  256.0 MiB of 1.0 GiB  128.0 MiB/s  7 s left"])
        screen.now += Self.second
        progress.update(phase: "restore", done: 3, total: 0, unit: .tasks)
        #expect(screen.shown.last?.hasPrefix("\rrestore  3 tasks ") == true)
    }

    @Test("amounts", arguments: [
        (0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB"),
        (.max, "16777216.0 TiB"),
    ] as [(UInt64, String)]) func amounts(count: UInt64, text: String) {
        let shown = Quantity.bytes(count)
        #expect(count == .max ? shown.hasSuffix(" TiB") : shown == text)
    }

    @Test("times", arguments: [(0, "0 µs"), (999, "999 µs"), (12345, "12.3 ms"), (4_560_000, "4.56 s"), (1_040_000, "1.04 s")] as [(UInt64, String)])
    func times(count: UInt64, text: String) { #expect(Quantity.microseconds(count) == text) }
}
