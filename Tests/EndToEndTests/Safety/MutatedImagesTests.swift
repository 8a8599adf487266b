import Foundation
import Testing

/// Images that lie: a restore either says which file is wrong, or restores properly; it never crashes, hangs or leaves tasks. Checksums
/// find every change; what finds lies without them is tested with --no-verify.
extension EndToEnd {
    @Suite("mutated images", .serialized) struct MutatedImages {
        static let count = ProcessInfo.processInfo.environment["STASIS_MUTATIONS"].flatMap { Int($0) } ?? 500

        @Test("are refused by name, or restored properly") func refused() throws { try mutate("threads", ["2"], [], count: Self.count) { _ in true } }

        /// Messages that a restore gives to the kernel, and text that it gives to programs.
        @Test("of a network namespace are refused by name, or restored properly") func refusedNetwork() throws {
            let kinds = ["netns-", "netdev-", "ifaddr-", "route", "rule-", "nftables-", "iptables-"]
            try mutate("network-namespace", [], ["--tcp-established"], count: Self.count / 5) { name in kinds.contains { name.hasPrefix($0) } }
        }

        /// - Parameter options: of dump and restore.
        private func mutate(_ program: String, _ arguments: [String], _ options: [String], count: Int, _ isMutated: (String) -> Bool) throws {
            let run = try Run(program)
            (run.dumpOptions, run.restoreOptions) = (options, options)
            run.reporting(again: "STASIS_SEED=\(KilledDump.seed) swift test --filter MutatedImages", as: "mutated-images-\(program)") { run in
                try run.start(["--detached", program] + arguments)
                try run.awaitReady()
                try run.dumpAndKill()
                let all = try FileManager.default.contentsOfDirectory(atPath: run.images).filter { $0.hasSuffix(".img") }.sorted()
                let names = try all.filter { try isMutated($0) && !Data(contentsOf: URL(fileURLWithPath: run.images + "/" + $0)).isEmpty }
                let original = Dictionary(uniqueKeysWithValues: names.map { ($0, FileManager.default.contents(atPath: run.images + "/" + $0) ?? Data()) })
                var random = SplitMix(seed: KilledDump.seed + 99)
                var wrong: [String] = []
                for trial in 0..<count {
                    let what = try mutate(run.images, names, original, &random)
                    if let problem = try problem(run, names, verified: trial % 5 == 0 && what.isChange) { wrong.append("\(trial): \(what.text): \(problem)") }
                    run.killAll()
                    for (name, data) in original { try data.write(to: URL(fileURLWithPath: run.images + "/" + name)) }
                    guard wrong.count < 10 else { break }
                }
                guard wrong.isEmpty else { throw Failure(wrong.joined(separator: "\n")) }
                try run.restore()
                try run.checkItself()
            }
        }

        /// Changes one thing; says what, and whether it is one that must not be restored. (The vDSO's pages are not.)
        private func mutate(_ folder: String, _ names: [String], _ original: [String: Data], _ random: inout SplitMix) throws -> (text: String, isChange: Bool) {
            let name = names[random.next(below: names.count)], path = folder + "/" + name
            var data = original[name] ?? Data()
            switch random.next(below: 6) {
            case 0:
                let size = random.next(below: data.count)
                try data.prefix(size).write(to: URL(fileURLWithPath: path))
                return ("\(name) cut to \(size) of \(data.count) bytes", true)
            case 1:
                try FileManager.default.removeItem(atPath: path)
                return ("\(name) deleted", true)
            case 2:
                let other = names[random.next(below: names.count)]
                try (original[other] ?? Data()).write(to: URL(fileURLWithPath: path))
                return ("\(name) replaced by \(other)", data != original[other])
            case 3:
                data.append(contentsOf: (0..<(1 + random.next(below: 40))).map { _ in UInt8(truncatingIfNeeded: random.next()) })
                try data.write(to: URL(fileURLWithPath: path))
                return ("\(name) with bytes at its end", !name.hasPrefix("pages-"))
            default:
                guard !data.isEmpty else { return ("nothing", false) }
                var places: [String] = []
                for _ in 0...random.next(below: 3) {
                    let at = random.next(below: data.count), bit = random.next(below: 8)
                    data[data.startIndex + at] ^= 1 << bit
                    places.append("\(at).\(bit)")
                }
                try data.write(to: URL(fileURLWithPath: path))
                return ("\(name) with bits flipped at \(places.joined(separator: ", "))", data != original[name] && !name.hasPrefix("pages-"))
            }
        }

        private func problem(_ run: Run, _ names: [String], verified: Bool) throws -> String? {
            let result = try run.restoreCommand(verified ? [] : ["--no-verify"]).run(within: 5)
            if result.timedOut { return "hangs" }
            if result.signal != 0 || result.status >= 128 { return "crashes: \(result)" }
            if result.status == 0 { return verified ? "is restored although it changed" : nil }
            let log = String.contents(of: run.images + "/restore.log") ?? ""
            // An object of the tree stands for its file where a value was readable but wrong.
            let text = result.output + log
            let named = names.contains { text.contains($0) } || text.contains(".img") || text.contains("cannot restore ")
            if !named { return "the error names no file: \(result.output.trimmed)" }
            guard eventually(within: 1, { run.tasks().filter { $0.state != "Z" }.isEmpty }) else {
                return "tasks left: \(run.tasks().map { "\($0.pid) \($0.state)" })"
            }
            return nil
        }
    }
}
