import Foundation
import Testing

/// One program of Tests/Workloads, as `workload --list` describes it.
struct Workload: CustomTestStringConvertible {
    let name: String, dumpOptions: [String], restoreOptions: [String], slow: Bool
    var testDescription: String { name }

    static let all: [Workload] = {
        guard let list = try? Command(Binaries.workload, ["--list"], in: "/").run(), list.succeeded else { return [] }
        return list.output.split(separator: "\n").map { line in
            let columns = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
            return Workload(
                name: columns[0], dumpOptions: columns[1].words, restoreOptions: columns[2].words, slow: columns[3] == "slow")
        }
    }()
}

/// What happens between a workload's ready and its go; Tests/run-workload has the same.
enum Mode: String, CaseIterable, CustomTestStringConvertible {
    case plain, dumpRestore = "dump-restore", twice, leaveRunning = "leave-running", mixed
    var testDescription: String { rawValue }

    func happen(to run: Run) throws {
        func cycle() throws {
            try run.dumpAndKill()
            try run.restore()
        }
        switch self {
        case .plain: break
        case .dumpRestore: try cycle()
        case .twice:
            try cycle()
            try cycle()
        case .leaveRunning: try run.dump(["-R"])
        case .mixed:  // what was left running can be dumped, restored and left running again
            try run.dump(["-R"])
            try cycle()
            try run.dump(["-R"])
        }
    }
}

@Suite("end to end", .serialized) enum EndToEnd {}

extension EndToEnd {
    @Suite("workloads", .serialized) struct Workloads {
        @Test("there are workloads") func some() { #expect(Workload.all.count > 50) }

        /// What `dumpRestore` and `leaveRunning` do is part of `twice` and `mixed`; they are for trials by hand.
        @Test("keep their state", arguments: Workload.all, [Mode.plain, .twice, .mixed])
        func keepsItsState(workload: Workload, mode: Mode) throws {
            // Workloads measure times, and two cores may be busy: what fails is repeated, up to twice, and every failure is printed.
            for attempt in 1...3 {
                let run = try Run(workload.name)
                run.dumpOptions = workload.dumpOptions
                run.restoreOptions = workload.restoreOptions
                run.reporting(again: "Tests/run-workload \(workload.name) \(mode.rawValue)", as: "\(workload.name)-\(mode.rawValue)", last: attempt == 3) { run in
                    try run.start(["--detached", workload.name], environment: ["WORKLOAD_MODE": mode.rawValue])
                    try run.awaitReady()
                    try mode.happen(to: run)
                    try run.checkItself()
                }
                if !run.failed { break }
            }
        }
    }
}
