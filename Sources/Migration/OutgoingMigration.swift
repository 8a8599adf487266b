import Checkpoint
import Glibc
import ImageMessages
import Images
package import Kinds
package import Linux
import Pages
import TCPRepair

/// A migration seen from its source: the tree runs here until it runs there (docs/design/migration.md).
///
/// Must run from its beginning to its end on one thread, which waits for nobody's children but its own: it traces the tree (ptrace(2)).
public final class OutgoingMigration {
    private let root: ThreadID
    private let transport: any MigrationTransport
    private let settings: MigrationSettings
    private let report: (MigrationEvent) -> Void
    private let log: Log
    private let hook: (_ point: String, _ images: FileDescriptor) throws -> Void
    private let plugins: (_ images: FileDescriptor) throws -> PluginSet
    private let progress: (_ phase: String, _ done: UInt64, _ total: UInt64) -> Void
    private let id = RunID.make()
    private let store: ImageStore
    private let trackers: TrackerHolder

    /// - Parameters:
    ///   - root: the tree's root process.
    ///   - report: told what happens, on the calling thread.
    public convenience init(
        of root: Int32, over transport: any MigrationTransport, _ settings: MigrationSettings = .init(), report: @escaping (MigrationEvent) -> Void = { _ in }
    ) throws {
        try self.init(of: ThreadID(root), over: transport, settings, log: Log(level: .silent), report: report)
    }

    package init(
        of root: ThreadID, over transport: any MigrationTransport, _ settings: MigrationSettings, log: Log,
        hook: @escaping (_ point: String, _ images: FileDescriptor) throws -> Void = { _, _ in },
        plugins: @escaping (_ images: FileDescriptor) throws -> PluginSet = { _ in PluginSet() },
        progress: @escaping (_ phase: String, _ done: UInt64, _ total: UInt64) -> Void = { _, _, _ in }, report: @escaping (MigrationEvent) -> Void
    ) throws {
        (self.root, self.transport, self.settings, self.log) = (root, transport, settings, log)
        (self.hook, self.plugins, self.progress, self.report) = (hook, plugins, progress, report)
        store = try ImageStore()
        trackers = TrackerHolder(root: root, log)
    }

    /// Returns when the tree runs at the destination and is no more here, or, if only checks were asked for, when nothing would fail. Throws
    /// when the tree goes on here; the error says so where it is otherwise.
    public func run() throws -> MigrationResult {
        let began = Clock.monotonic()
        let connection = ControlConnection(PageConnection(try transport.connect()), to: "the destination")
        do {
            var result = MigrationResult()
            try greet(connection, intent: "migrate")
            _ = try connection.expect(.welcome)
            report(.connected)
            try check(connection)
            if settings.checksOnly { return result }
            let followed: Bool
            (result.rounds, followed) = try preCopy(connection)
            try moveRest(connection, followed, &result)
            result.total = Clock.monotonic() - began
            return result
        } catch {
            try? connection.send(ControlMessage(refusal: error))
            throw error
        }
    }

    private func failed(_ cause: String, remedy: String? = nil) -> CheckpointError { CheckpointError("migrate", .task(root), cause, remedy: remedy) }

    private func greet(_ connection: ControlConnection, intent: String) throws {
        try connection.send(ControlMessage(.hello, [ControlMessage.magic, "\(ControlMessage.version)", intent, id]))
    }

    private func request(_ name: String, before: String? = nil) throws -> Dump.Request {
        let images = try store.make(name)
        var request = Dump.Request(root: root, images: images, work: images, log: log)
        request.settings = settings.dump
        request.settings.previousImages = before.map { "../\($0)" }
        request.trackers = trackers
        request.plugins = try plugins(images)
        request.progress = progress
        request.hook = { [hook] in try hook($0, images) }
        return request
    }

    // MARK: before anything is frozen

    private func check(_ connection: ControlConnection) throws {
        try connection.send(ControlMessage(.terms, Terms.of(settings.dump) + (settings.whenTooBusy == .postCopy ? [Terms.postCopy] : [])))
        var request = try request("check")
        request.settings.processor = true
        var check = MigrationCheck(here: try Dump.check(request), there: nil)
        if check.here.passes {
            try addDigests(to: request.images)
            try ImageTransfer.send(request.images, over: connection)
            try connection.send(ControlMessage(.check))
            check.there = CheckReport("restore", verdicts: try connection.expect(.verdicts))
        }
        report(.checked(check))
        guard !check.passes, let first = check.firstFailure else { return }
        let more = check.failures - 1
        throw failed(first.message + (more > 0 ? "; \(more) more would fail" : ""), remedy: first.remedy)
    }

    /// To the entries of programs and libraries, now that the tree runs on: reading all of them takes its time.
    private func addDigests(to images: FileDescriptor) throws {
        let directory = try ImageDirectory(images)
        var entries = try directory.all(.files, optional: true)
        for at in entries.indices where entries[at].hasReg && !entries[at].reg.buildID.isEmpty {
            guard let file = try? FileDescriptor.open(entries[at].reg.name, O_RDONLY | O_NONBLOCK), let digest = try? Digest.sha256(of: file) else { continue }
            entries[at].reg.digest = .init(imageBytes: digest)
        }
        if !entries.isEmpty { try directory.write(.files, 0, entries) }
    }

    /// Rounds of memory while the tree runs. Answers whether the rest is to follow the tree.
    private func preCopy(_ connection: ControlConnection) throws -> ([MigrationRound], followed: Bool) {
        let policy = PreCopy(limit: UInt64(settings.maxDowntime) * 1_000_000, maxRounds: settings.maxRounds)
        var rounds = [MigrationRound]()
        while true {
            switch policy.next(after: rounds) {
            case .freeze: return (rounds, followed: rounds.isEmpty && settings.whenTooBusy == .postCopy)
            case .again: break
            case .tooBusy:
                guard settings.whenTooBusy != .giveUp else { throw tooBusy(policy.estimate(rounds)!) }
                return (rounds, followed: settings.whenTooBusy == .postCopy)
            }
            let request = try openRound("\(rounds.count + 1)", after: rounds.count, connection)
            let began = Clock.monotonic()
            let result = try PreDump.run(request)
            rounds.append(MigrationRound(bytes: result.bytes, began: began, nanoseconds: Clock.monotonic() - began))
            report(.round(rounds.last!, policy.estimate(rounds)!))
        }
    }

    private func tooBusy(_ estimate: PreCopy.Estimate) -> CheckpointError {
        let rate = estimate.dirtyRate.map { "it writes \(Quantity.bytes($0)) a second, " } ?? ""
        return failed(
            "\(rate)the connection takes \(Quantity.bytes(estimate.bandwidth)) a second: the last of its memory would take \(Quantity.microseconds(estimate.nanosecondsLeft / 1000))",
            remedy: "allow that with --max-downtime \(estimate.nanosecondsLeft / 1_000_000 + 1), go on at any price with --when-too-busy go-on, or let it follow the tree with --when-too-busy post-copy")
    }

    private func openRound(_ name: String, after number: Int, _ connection: ControlConnection) throws -> Dump.Request {
        let before = number > 0 ? "\(number)" : nil
        var request = try request(name, before: before)
        try connection.send(ControlMessage(.round, [name, before ?? ""]))
        _ = try connection.expect(.proceed)
        request.pageServer = .connection(connection.pages)
        return request
    }

    // MARK: the tree stands still

    private func moveRest(_ connection: ControlConnection, _ followed: Bool, _ result: inout MigrationResult) throws {
        report(.freezing)
        var request = try openRound("final", after: result.rounds.count, connection)
        request.settings.ending = .kill
        request.settings.postponesPages = followed
        var moved = result, unsettled: CheckpointError?
        request.handOver = { [unowned self] (tree: FrozenTree, postponed: FrozenPageSource) throws -> DumpSettings.Ending in
            moved.imageBytes = try ImageTransfer.send(request.images, over: connection)
            try connection.send(ControlMessage(.restore, followed ? [Terms.postCopy] : []))
            let giver = MemoryGiver(postponed, connection)
            try giver.serve(until: .ready)
            report(.ready)
            let answer = letGo(tree, giver, followed, connection) { moved.downtime = Clock.monotonic() - tree.began }
            moved.laterBytes = giver.given
            switch answer {
            case .running, .whole: return .kill
            case .aborted: throw failed("the connection was cut, and the destination does not let the tree run: it goes on here", remedy: "migrate again")
            case .lost: unsettled = lost(lock(request.images))
            case .unknown: unsettled = inDoubt(lock(request.images))
            }
            return .leaveStopped
        }
        let dump = try Dump.run(request)
        result = moved
        if let unsettled { throw unsettled }
        (result.lastBytes, result.processes, result.threads) = (dump.bytes, dump.processes, dump.threads)
        liftLock(request.images)
        // The tree is no more here: whether the destination hears of it is nothing to us.
        try? connection.send(ControlMessage(.done))
    }

    /// From *go* to *running*, or to *complete* where memory follows. Whatever goes wrong in between is doubt, and doubt is settled by asking.
    private func letGo(_ tree: FrozenTree, _ giver: MemoryGiver, _ followed: Bool, _ connection: ControlConnection, runs: () -> Void) -> Decision.Answer {
        tree.hold()
        do {
            try connection.send(ControlMessage(.go))
            connection.limitWaiting(toSeconds: 20)
            _ = try connection.expect(.running)
            runs()
            report(.running(nanoseconds: Clock.monotonic() - tree.began))
            guard followed else { return .running }
            report(.follows(bytes: giver.total - giver.given))
            connection.limitWaiting(toSeconds: 0)
            try giver.serve(until: .complete)
            return .whole
        } catch {
            report(.inDoubt("\(error)"))
            log.warn("the outcome is in doubt: \(error)")
            // A tree that runs without its memory is on its way to one end or the other.
            return ask { $0 != .running || !followed }
        }
    }

    private func ask(_ isAnswer: (Decision.Answer) -> Bool) -> Decision.Answer {
        let end = Clock.monotonic() + UInt64(settings.patience) * 1_000_000_000
        while true {
            do {
                let connection = ControlConnection(PageConnection(try transport.connect()), to: "the destination")
                connection.limitWaiting(toSeconds: 10)
                try greet(connection, intent: "outcome")
                if let answer = Decision.Answer(rawValue: try connection.expect(.outcome).text(0)), isAnswer(answer) {
                    log.info("the destination says: \(answer)")
                    return answer
                }
            } catch { log.info("asking for the outcome: \(error)") }
            guard Clock.monotonic() < end else { return .unknown }
            usleep(300_000)
        }
    }

    private func inDoubt(_ lock: String?) -> CheckpointError {
        failed(
            "the connection was cut when the destination may have let the tree run, and it can't tell any more: the tree stands still here (SIGSTOP)",
            remedy: "look there: if task \(root) runs there, end the tree here with kill -KILL; if not, let all of it go on here with kill -CONT\(unlocking(lock))")
    }

    /// Post-copy's price: neither copy has both the memory and the past.
    private func lost(_ lock: String?) -> CheckpointError {
        failed(
            "the connection was cut when the tree ran there and its memory had not all followed: it was ended there, and stands still here (SIGSTOP) as it was when it was frozen",
            remedy: "let all of it go on here with kill -CONT, if what it has done there may be forgotten; else end it with kill -KILL\(unlocking(lock))")
    }

    /// The packets of a tree that stands still here stay held back: its peers may be talking to the other one, and are to hear of neither its silence nor its end.
    private func unlocking(_ lock: String?) -> String {
        lock.map { "; its TCP connections are locked here: lift that with stasis network-unlock \($0), before kill -CONT or after kill -KILL" } ?? ""
    }

    /// The lock that a dump leaves.
    private func lock(_ images: FileDescriptor) -> String? {
        guard let inventory = try? ImageDirectory(images).inventory(), inventory.networkLockMethod == 1 else { return nil }
        return PacketLock.name(inventory.dumpCriuRunID)
    }

    /// The lock that a dump leaves for its restore on the same machine: ours is elsewhere.
    private func liftLock(_ images: FileDescriptor) {
        guard let name = lock(images) else { return }
        do {
            try hook("network-unlock", images)
            try ConnectionLock.lift(name)
        } catch { log.warn("the lock of the tree's TCP connections stays here: \(error)") }
    }
}
@available(*, unavailable) extension OutgoingMigration: Sendable {}

extension CheckReport {
    /// Seven fields each, as `message` sends them.
    init(_ command: String, verdicts message: ControlMessage) {
        let texts = message.texts
        self.init(command, stride(from: 0, to: texts.count - texts.count % 7, by: 7).map { at in
            func optional(_ index: Int) -> String? { texts[at + index].isEmpty ? nil : texts[at + index] }
            return Verdict(
                Verdict.Grade(rawValue: texts[at]) ?? .fails, object: texts[at + 1], text: texts[at + 2], remedy: optional(3), option: optional(4),
                errno: optional(5).flatMap { Int32($0) }, message: texts[at + 6])
        })
    }
    var message: ControlMessage {
        ControlMessage(.verdicts, verdicts.flatMap { verdict in
            [verdict.grade.rawValue, verdict.object, verdict.text, verdict.remedy ?? "", verdict.option ?? "", verdict.errno.map { "\($0)" } ?? "", verdict.message]
        })
    }
}
