import Linux

/// Shows how far long work has come, on a terminal: phase, share, bytes or tasks, rate, time left. Nothing in the first half
/// second, at most ten times a second after it, nothing at all where standard error is no terminal, and nothing left at the end.
package final class Progress {
    private let clock: () -> UInt64
    private let show: ((String) -> Void)?
    private let began: UInt64
    private var phase = ""
    private var phaseBegan: UInt64
    private var lastShown: UInt64 = 0
    private var width = 0

    private static let silence: UInt64 = 500_000_000
    private static let interval: UInt64 = 100_000_000

    /// - Parameter clock: nanoseconds that only grow; cheap, for it is asked at every chunk.
    /// - Parameter show: writes text as it is; nil keeps silent.
    package init(clock: @escaping () -> UInt64, show: ((String) -> Void)?) {
        self.clock = clock
        self.show = show
        began = clock()
        phaseBegan = began
    }

    package enum Unit: Sendable { case bytes, tasks }

    /// Cheap enough to be called for every chunk of work.
    /// - Parameter total: 0 where it isn't known.
    package func update(phase: String, done: UInt64, total: UInt64, unit: Unit = .bytes) {
        guard let show else { return }
        let now = clock()
        if phase != self.phase {
            self.phase = phase
            phaseBegan = now
        }
        guard now - began >= Self.silence, lastShown == 0 || now - lastShown >= Self.interval else { return }
        lastShown = now
        let text = line(done: done, total: total, unit: unit, nanoseconds: now - phaseBegan)
        show("\r" + text + String(repeating: " ", count: max(0, width - text.utf8.count)))
        width = text.utf8.count
    }

    /// Takes away what is shown.
    package func end() {
        guard let show, width > 0 else { return }
        show("\r" + String(repeating: " ", count: width) + "\r")
        width = 0
        lastShown = 0
    }

    deinit { end() }

    /// "memory 45%  460.0 MiB of 1.0 GiB  1.2 GiB/s  1 s left"
    private func line(done: UInt64, total: UInt64, unit: Unit, nanoseconds: UInt64) -> String {
        var parts = [phase]
        if total > 0 { parts[0] += " \(min(done, total) * 100 / total)%" }
        let amount = { (count: UInt64) in unit == .bytes ? Quantity.bytes(count) : "\(count)" }
        parts.append(amount(done) + (total > 0 ? " of " + amount(total) : "") + (unit == .tasks ? " tasks" : ""))
        let milliseconds = nanoseconds / 1_000_000
        if milliseconds >= 200, done > 0 {
            let rate = UInt64(Double(done) * 1000 / Double(milliseconds))
            parts.append(unit == .bytes ? Quantity.bytes(rate) + "/s" : "\(rate) tasks/s")
            if total > done, rate > 0 { parts.append("\((total - done) / rate + 1) s left") }
        }
        return parts.joined(separator: "  ")
    }
}

/// Amounts as people read them.
package enum Quantity {
    /// "512 bytes", "1.5 KiB", "12.0 GiB".
    package static func bytes(_ count: UInt64) -> String {
        guard count >= 1024 else { return count == 1 ? "1 byte" : "\(count) bytes" }
        var tenths = count / 1024 * 10 + count % 1024 * 10 / 1024
        for unit in ["KiB", "MiB", "GiB"] {
            if tenths < 10240 { return "\(tenths / 10).\(tenths % 10) \(unit)" }
            tenths /= 1024
        }
        return "\(tenths / 10).\(tenths % 10) TiB"
    }

    /// "740 µs", "12.3 ms", "4.56 s".
    package static func microseconds(_ count: UInt64) -> String {
        switch count {
        case ..<1000: return "\(count) µs"
        case ..<1_000_000: return "\(count / 1000).\(count % 1000 / 100) ms"
        default:
            let hundredths = count % 1_000_000 / 10_000
            return "\(count / 1_000_000).\(hundredths < 10 ? "0" : "")\(hundredths) s"
        }
    }
}
