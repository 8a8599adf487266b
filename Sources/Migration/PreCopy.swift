/// What one round of copying memory was like.
public struct MigrationRound: Equatable, Sendable {
    /// What was sent, bytes of memory.
    public var bytes: UInt64
    /// When it was looked at what to send (CLOCK_MONOTONIC, ns), and how long it took until all of that was there.
    public var began: UInt64, nanoseconds: UInt64
    public init(bytes: UInt64, began: UInt64, nanoseconds: UInt64) { (self.bytes, self.began, self.nanoseconds) = (bytes, began, nanoseconds) }
}

/// Decides, after each round, whether it is time to freeze the tree. Pure.
public struct PreCopy: Equatable, Sendable {
    public enum Step: Equatable, Sendable { case again, freeze, tooBusy }
    /// What is not worth another round, ns: a round stops the tree for about as long.
    private static let little: UInt64 = 5_000_000
    /// How long the last pages may take to send, ns.
    public var limit: UInt64
    public var maxRounds: Int
    public init(limit: UInt64, maxRounds: Int) { (self.limit, self.maxRounds) = (limit, maxRounds) }

    /// What is known after the last round. Rates are bytes a second.
    public struct Estimate: Equatable, Sendable {
        public var bandwidth: UInt64, dirtyRate: UInt64?
        /// What was written since the last look, bytes, and the time to send it, ns.
        public var left: UInt64, nanosecondsLeft: UInt64
    }

    /// Nil before the first round.
    public func estimate(_ rounds: [MigrationRound]) -> Estimate? {
        guard let last = rounds.last else { return nil }
        // A round of little is mostly the freeze: what it says of the connection is too low.
        let telling = rounds.last { $0.bytes >= 1 << 20 } ?? rounds.max { $0.bytes < $1.bytes }!
        let bandwidth = max(Self.perSecond(telling.bytes, telling.nanoseconds), 1)
        guard rounds.count > 1 else {
            // Everything may have been written again.
            return Estimate(bandwidth: bandwidth, dirtyRate: nil, left: last.bytes, nanosecondsLeft: Self.time(last.bytes, bandwidth))
        }
        let rate = Self.perSecond(last.bytes, last.began - rounds[rounds.count - 2].began)
        let left = UInt64(Double(rate) * Double(last.nanoseconds) / 1e9)
        return Estimate(bandwidth: bandwidth, dirtyRate: rate, left: left, nanosecondsLeft: Self.time(left, bandwidth))
    }

    public func next(after rounds: [MigrationRound]) -> Step {
        guard maxRounds > 0 else { return .freeze }
        guard let last = rounds.last, let estimate = estimate(rounds) else { return .again }
        if estimate.nanosecondsLeft <= limit {
            // Good enough. Better still, as long as a round leaves less than half.
            let isWorthIt = estimate.nanosecondsLeft > Self.little && estimate.left < last.bytes / 2 && rounds.count < maxRounds
            return isWorthIt ? .again : .freeze
        }
        if rounds.count == 1 && maxRounds > 1 { return .again }
        // Worth it only while each round leaves clearly less than the one before.
        return rounds.count < maxRounds && Double(estimate.left) < 0.8 * Double(last.bytes) ? .again : .tooBusy
    }

    private static func perSecond(_ bytes: UInt64, _ nanoseconds: UInt64) -> UInt64 { UInt64(Double(bytes) * 1e9 / Double(max(nanoseconds, 1))) }
    private static func time(_ bytes: UInt64, _ rate: UInt64) -> UInt64 { UInt64(Double(bytes) / Double(rate) * 1e9) }
}
