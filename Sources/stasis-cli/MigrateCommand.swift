import Checkpoint
import Cryptography
import Kinds
import Linux
import Migration
import Options

/// `stasis migrate PID --to PLACE`.
enum MigrateCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            guard let tree = options.tree, let text = options.destination else { preconditionFailure("the command line demands both") }
            guard let place = MigrationPlace(text) else {
                throw OptionError.usage("--to \"\(text)\": no place", try: "ssh://[USER@]HOST[:PORT], unix:PATH, or HOST[:PORT]")
            }
            let credentials = try place.credentials(options)
            let watcher = Watcher(session)
            let migration = try OutgoingMigration(
                of: ThreadID(tree), over: credentials.map { SecuredPlace(place, $0) } ?? place, MigrationSettings(options), log: session.log,
                hook: { try ActionScripts(options.actionScripts, images: $1, log: session.log).run(HookPoint(rawValue: $0)!, root: ThreadID(tree)) },
                plugins: { try Session.plugins(options, images: $0, session.log) },
                progress: { session.progress.update(phase: $0, done: $1, total: $2, unit: $0.hasPrefix("memory") ? .bytes : .tasks) },
                report: { watcher.see($0) })
            do {
                let result = try migration.run()
                session.progress.end()
                if options.json { Output.line(watcher.report(result, root: tree).text) }
                return 0
            } catch {
                session.progress.end()
                if let check = watcher.check, options.checkOnly || !check.passes { Output.error(check.text + "\n") }
                throw error
            }
        }
    }
}

/// What a migration tells on its way: to the log, and for the report at its end.
private final class Watcher {
    private let session: Session
    private(set) var check: MigrationCheck?
    private var rounds: [JSON] = []
    init(_ session: Session) { self.session = session }

    func see(_ event: MigrationEvent) {
        session.progress.end()
        let log = session.log
        switch event {
        case .connected: log.info("connected")
        case .checked(let check):
            self.check = check
            log.info("checked: \(check.summary)")
            if session.options.checkOnly, check.passes, !session.options.json { Output.line(check.text) }
        case .round(let round, let estimate):
            let writes = estimate.dirtyRate.map { "it writes \(Quantity.bytes($0))/s, " } ?? ""
            log.info(
                "round \(rounds.count + 1): \(Quantity.bytes(round.bytes)) in \(Quantity.microseconds(round.nanoseconds / 1000)), \(Quantity.bytes(estimate.bandwidth))/s; "
                    + "\(writes)\(Quantity.bytes(estimate.left)) are left, \(Quantity.microseconds(estimate.nanosecondsLeft / 1000))")
            rounds.append(.object([
                .init("bytes", .number(round.bytes)), .init("us", .number(round.nanoseconds / 1000)), .init("bandwidth", .number(estimate.bandwidth)),
                .init("dirty_rate", estimate.dirtyRate.map { .number($0) } ?? .null), .init("left_bytes", .number(estimate.left)),
                .init("left_us", .number(estimate.nanosecondsLeft / 1000)),
            ]))
        case .freezing: log.info("freezing the tree")
        case .ready: log.info("the destination has restored the tree")
        case .running(let nanoseconds): log.info("the tree runs there; it stood still for \(Quantity.microseconds(nanoseconds / 1000))")
        case .follows(let bytes): log.info("\(Quantity.bytes(bytes)) of its memory follow it")
        case .inDoubt(let cause): log.warn("\(cause); asking the destination whether the tree runs there")
        }
    }

    func report(_ result: MigrationResult, root: Int32) -> JSON {
        guard !session.options.checkOnly else {
            return .object([.init("command", .string("migrate")), .init("ok", .bool(true)), .init("root", .number(root)), .init("check", .string(check?.text ?? ""))])
        }
        return .object([
            .init("command", .string("migrate")), .init("ok", .bool(true)), .init("root", .number(root)), .init("processes", .number(result.processes)),
            .init("threads", .number(result.threads)), .init("rounds", .array(rounds)), .init("last_bytes", .number(result.lastBytes)),
            .init("image_bytes", .number(result.imageBytes)), .init("later_bytes", .number(result.laterBytes)),
            .init("times_us", .object([.init("total", .number(result.total / 1000)), .init("downtime", .number(result.downtime / 1000))])),
        ])
    }
}

extension MigrationPlace {
    /// Nothing goes readable over an open network, and nobody unknown is served there, unless that was asked for. No public authority decides
    /// who may start processes here.
    func credentials(_ options: Options) throws -> TLSCredentials? {
        let credentials = try options.credentials(trustsSystem: false)
        if case .ssh = self, credentials != nil { throw OptionError.usage("ssh encrypts and proves who is there: --tls is for HOST:PORT and unix sockets") }
        if isOpen, credentials == nil, !options.isInsecure {
            throw OptionError.usage(
                "\(self) is plain TCP: memory goes readable over the network, and whoever connects to a destination can start processes there",
                try: "--tls, --tls-psk FILE, --to ssh://HOST, or --insecure where that does no harm")
        }
        return credentials
    }
}

extension MigrationSettings {
    init(_ options: Options) {
        self.init()
        (maxDowntime, maxRounds, checksOnly) = (options.maxDowntime, Int(options.maxRounds), options.checkOnly)
        whenTooBusy = .init(rawValue: options.whenTooBusy.rawValue) ?? .giveUp
        dump = DumpSettings(options)
    }
}
