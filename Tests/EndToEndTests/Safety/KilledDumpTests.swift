import Foundation
import Testing

/// SIGKILL of `stasis dump` at random moments: the tree must go on as if nothing had happened.
/// STASIS_KILLS says how many in all (300 in CI, 3,000 by hand); STASIS_SEED repeats a run; STASIS_PROGRAMS names some of the four.
extension EndToEnd {
    @Suite("a killed dump", .serialized) struct KilledDump {
        static let kills = ProcessInfo.processInfo.environment["STASIS_KILLS"].flatMap { Int($0) } ?? 300
        static let seed = ProcessInfo.processInfo.environment["STASIS_SEED"].flatMap { UInt64($0) } ?? 1

        static let programs = ProcessInfo.processInfo.environment["STASIS_PROGRAMS"].map { $0.split(separator: ",").map(String.init) } ?? ["busy-fp", "sleepers", "threads", "tree-20"]

        @Test("harms nobody", arguments: programs)
        func harmsNobody(program: String) throws {
            var random = SplitMix(seed: Self.seed)
            var left = Self.kills / Self.programs.count
            while left > 0 { try round(program, trials: &left, random: &random) }
        }

        /// One workload from start to its own check, with as many kills as fit (a sleeper wakes up some day).
        private func round(_ program: String, trials: inout Int, random: inout SplitMix) throws {
            let run = try Run(program)
            var count = trials
            run.reporting(again: "STASIS_SEED=\(Self.seed) swift test --filter KilledDump", as: "killed-dump-\(program)") { run in
                let sleep = 20.0, end = Date().addingTimeInterval(sleep * 0.6)
                try run.start(["--detached", program], environment: ["WORKLOAD_SLEEP": "\(sleep)"])
                try run.awaitReady()
                usleep(100_000)
                let before = conditions(run)
                let begin = Date()
                try run.dump(["-R"])
                let duration = Date().timeIntervalSince(begin)
                try sameConditions(run, before, "a whole dump -R")
                try? FileManager.default.removeItem(atPath: run.images)
                while count > 0 && Date() < end {
                    count -= 1
                    let keep = random.next(below: 2) == 0
                    let delay = duration * Double(random.next(below: 1100)) / 1000
                    _ = try run.dumpCommand(keep ? ["-R"] : []).run(within: 30, killAfter: delay)
                    // Committed: its tasks are gone or going, some of them perhaps not before our kill.
                    if exists(run.images + "/inventory.img") && !keep { return }
                    try sameConditions(run, before, "SIGKILL after \(Int(delay * 1e6)) µs of dump \(keep ? "-R" : "")")
                    try? FileManager.default.removeItem(atPath: run.images)
                }
                try run.dump(["-R"])
                try sameConditions(run, before, "the dump after all the kills")
                try run.checkItself(within: 60)
            }
            trials = run.failed ? 0 : count
        }

        private func conditions(_ run: Run) -> [pid_t: String] {
            Dictionary(uniqueKeysWithValues: run.tasks().map { ($0.pid, $0.condition) })
        }

        /// A task may need a moment to run to the end of what it was doing for the dump.
        private func sameConditions(_ run: Run, _ before: [pid_t: String], _ after: String) throws {
            var difference = ""
            let same = eventually(within: 2) {
                let now = conditions(run)
                for (pid, text) in before {
                    guard let text2 = now[pid] else { difference = "task \(pid) is gone"; return false }
                    guard text != text2 else { continue }
                    let old = text.split(separator: "\n"), new = text2.split(separator: "\n")
                    let gone = old.filter { !new.contains($0) }, come = new.filter { !old.contains($0) }
                    difference = "task \(pid): was \(gone.prefix(4)), is \(come.prefix(4))"
                    return false
                }
                let more = now.keys.filter { before[$0] == nil }
                difference = "new tasks \(more)"
                return more.isEmpty
            }
            guard same else { throw Failure("after \(after): \(difference)") }
        }
    }
}

/// A small generator whose seed repeats a run (splitmix64).
struct SplitMix: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
    mutating func next(below bound: Int) -> Int { Int(next() % UInt64(max(bound, 1))) }
}
