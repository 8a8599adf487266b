import Checkpoint
import Glibc
import ImageMessages
import Images
package import Kinds
public import Linux
package import Pages
import TCPRepair

/// A migration seen from its destination (docs/design/migration.md).
///
/// Must run from its beginning to its end on one thread: it traces the tree (ptrace(2)).
public final class IncomingMigration {
    private let store: ImageStore
    private let listener: MigrationListener?
    private let log: Log
    private let hook: (_ point: String, _ root: ThreadID?, _ images: FileDescriptor) throws -> Void
    private let plugins: (_ images: FileDescriptor) throws -> PluginSet
    private let progress: (_ phase: String, _ done: UInt64, _ total: UInt64) -> Void
    private var settings: RestoreSettings
    private let movesAddresses: Bool
    /// The migration that this one is, once its source has said so.
    private var id = ""
    private var isReady = false
    private var mayFollow = false
    private var rounds: [FileDescriptor] = []
    /// Whether a source has begun to send its tree.
    package var hasBegun: Bool { !id.isEmpty }
    /// How long a source that is in doubt may take to come back, seconds.
    private static let patience: UInt64 = 40

    /// What runs here now.
    package struct Received: Sendable {
        package let root: ThreadID
        /// Of the restore, with the wait for the source's word.
        package let microseconds: UInt64
    }

    /// - Parameter directory: where images lie meanwhile; nil: in memory.
    public convenience init(images directory: FileDescriptor? = nil) throws {
        try self.init(images: directory, listener: nil, settings: RestoreSettings(), log: Log(level: .silent))
    }
    /// - Parameters:
    ///   - listener: where a source that is in doubt comes back to.
    ///   - movesAddresses: whether `hook` may bring the tree's addresses here: that they are not here before is no reason to refuse it.
    package init(
        images directory: FileDescriptor?, listener: MigrationListener?, settings: RestoreSettings, movesAddresses: Bool = false, log: Log,
        hook: @escaping (_ point: String, _ root: ThreadID?, _ images: FileDescriptor) throws -> Void = { _, _, _ in },
        plugins: @escaping (_ images: FileDescriptor) throws -> PluginSet = { _ in PluginSet() },
        progress: @escaping (_ phase: String, _ done: UInt64, _ total: UInt64) -> Void = { _, _, _ in }
    ) throws {
        (self.listener, self.settings, self.movesAddresses, self.log) = (listener, settings, movesAddresses, log)
        (self.hook, self.plugins, self.progress) = (hook, plugins, progress)
        store = try directory.map { ImageStore(in: $0) } ?? ImageStore()
    }

    /// Serves one source.
    /// - Returns: the root of the tree that runs here now; nil when the source had only to ask or to check something.
    public func serve(_ stream: any ByteStream) throws -> Int32? { try serve(PageConnection(stream))?.root.rawValue }

    package func serve(_ pages: PageConnection) throws -> Received? {
        let connection = ControlConnection(pages, to: "the source")
        do {
            guard try greet(connection) else { return nil }
            let result = try take(connection)
            store.clear()
            return result
        } catch {
            store.clear()
            try? connection.send(ControlMessage(refusal: error))
            if isReady { answerDoubts() }
            throw error
        }
    }

    /// False when that was all.
    private func greet(_ connection: ControlConnection) throws -> Bool {
        connection.limitWaiting(toSeconds: 10)
        let hello = try connection.expect(.hello)
        connection.limitWaiting(toSeconds: 0)
        guard hello.text(0) == ControlMessage.magic else { throw refused("its first message is not one of a migration") }
        guard hello.text(1) == "\(ControlMessage.version)" else {
            throw refused("it speaks version \(hello.text(1)) of the protocol, this is version \(ControlMessage.version)", remedy: "use the same version of stasis at both ends")
        }
        guard Decision.isID(hello.text(3)) else { throw refused("\"\(hello.text(3))\" is no id of a migration") }
        switch hello.text(2) {
        case "outcome":
            try answer(hello, connection)
            return false
        case "migrate":
            id = hello.text(3)
            try connection.send(ControlMessage(.welcome, ["\(ControlMessage.version)"]))
            return true
        default: throw refused("it wants \"\(hello.text(2))\"")
        }
    }

    private func refused(_ cause: String, remedy: String? = nil) -> CheckpointError { CheckpointError("serve", .object("the source"), cause, remedy: remedy) }

    private func answer(_ hello: ControlMessage, _ connection: ControlConnection) throws {
        let answer = try Decision.ask(hello.text(3))
        log.info("asked for the outcome of migration \(hello.text(3)): \(answer)")
        try connection.send(ControlMessage(.outcome, [answer.rawValue]))
    }

    // MARK: what comes

    private func take(_ connection: ControlConnection) throws -> Received? {
        var images = try store.make("check")
        var isChecked = false
        while true {
            guard let message = try connection.receiveOrEnd() else {
                if isChecked { return nil }
                throw refused("it has closed the connection")
            }
            switch message.kind {
            case .terms:
                Terms.add(message.texts, to: &settings)
                mayFollow = message.texts.contains(Terms.postCopy)
            case .file: try ImageTransfer.receive(message, into: images, over: connection)
            case .check:
                try connection.send(try check(images).message)
                isChecked = true
            case .round:
                images = try takeRound(message, connection)
                isChecked = false
            case .restore: return try restore(images, followed: message.text(0) == Terms.postCopy, connection)
            case .refused: throw message.refusal
            default: throw refused("it says \(message.kind), which is not due")
            }
        }
    }

    /// - Parameter images: also the work directory.
    private func restoreRequest(_ images: FileDescriptor) throws -> Restore.Request {
        var request = Restore.Request(images: images, work: images, log: log)
        request.settings = settings
        // What came over the connection lay in memory of ours since.
        request.settings.verifies = false
        request.plugins = try plugins(images)
        request.progress = progress
        request.hook = { [hook] in try hook($0, $1, images) }
        return request
    }

    private func check(_ images: FileDescriptor) throws -> CheckReport {
        var request = try restoreRequest(images)
        request.settings.processor = request.settings.processor ?? [.fpu, .ins]
        var report = RestoreCheck.run(request)
        if movesAddresses {
            report = CheckReport(report.command, report.verdicts.map { verdict in
                guard verdict.grade == .fails, verdict.errno == EADDRNOTAVAIL else { return verdict }
                return Verdict(warning: verdict.object, "this machine does not have its address yet", remedy: "the action script has to bring it at pre-restore")
            })
        }
        if mayFollow, !LaterMemory.isPossible {
            report = CheckReport(report.command, report.verdicts + [Verdict(
                CheckpointError("migrate", .object("memory behind its tree"), "the kernel here has no userfaultfd(2) with its events", remedy: "leave out --when-too-busy post-copy"), about: "post-copy")])
        }
        do { try Decision.checkPlace() } catch { report = CheckReport(report.command, report.verdicts + [Verdict(error, about: Decision.folder)]) }
        return report
    }

    private func takeRound(_ message: ControlMessage, _ connection: ControlConnection) throws -> FileDescriptor {
        let name = message.text(0), before = message.text(1)
        for word in [name, before] where word != "final" && !word.isEmpty && UInt16(word) == nil { throw refused("\"\(word)\" is no round") }
        let images = try store.make(name)
        rounds.append(images)
        if !before.isEmpty { try Incremental.link("../\(before)", in: images) }
        try connection.send(ControlMessage(.proceed))
        log.info("round \(name)")
        // There is one dump in the end: a page that comes again takes the place of the one before, so that few runs make the memory.
        let server = PageServer(connection.pages, images: images, flushes: false, sums: false, replaces: true, log)
        guard try server.serve() else { throw refused("the connection was cut in round \(name)") }
        return images
    }

    // MARK: the restore, and the decision

    /// - Parameter followed: whether the source still has pages, which are asked for.
    private func restore(_ images: FileDescriptor, followed: Bool, _ connection: ControlConnection) throws -> Received {
        let lock = try holdConnections(images)
        var request = try restoreRequest(images)
        let decision = try Decision(ready: id), line = SharedLine(connection)
        let later = try LaterMemory(images, rounds: rounds, from: followed ? line : nil, log)
        request.settings.postponesPages = later != nil
        var root: ThreadID?, runs = false
        let began = Clock.monotonic()
        request.hook = { [hook] point, task in
            root = task ?? root
            try hook(point, task, images)
        }
        request.atLast = { [unowned self] letRun in
            try line.inTurn { connection in
                if let failure = later?.failure { throw failure }
                isReady = true
                try connection.send(ControlMessage(.ready))
                try awaitGo(connection)
                try decision.release {
                    lock?.lift()
                    letRun()
                    runs = true
                }
                // At once: the source waits, with the tree.
                try? connection.send(ControlMessage(.running))
            }
        }
        do { _ = try Restore.run(request) } catch {
            guard runs else {
                // Nothing of it is left here.
                decision.abort()
                decision.forget()
                later?.cancel()
                throw later?.failure ?? error
            }
            log.warn("the tree runs, but: \(error)")
        }
        let received = Received(root: root ?? ThreadID(0), microseconds: (Clock.monotonic() - began) / 1000)
        if followed { try awaitMemory(later, decision) }
        if awaitDone(connection) { decision.forget() } else { answerDoubts() }
        if !followed { try later?.finish() }
        return received
    }

    /// Until the source has nothing any more that the tree needs.
    private func awaitMemory(_ later: LaterMemory?, _ decision: Decision) throws {
        do { try later?.finish() } catch {
            try decision.settleMemory(isWhole: false)
            throw error
        }
        try decision.settleMemory(isWhole: true)
        try? later?.complete()
    }

    /// The tree stands restored. Whoever comes meanwhile and asks settles that it does not run.
    private func awaitGo(_ connection: ControlConnection) throws {
        while true {
            let (isHere, other) = try wait(connection)
            if isHere { return _ = try connection.expect(.go) }
            if other { answerOne() }
            if try Decision.isAborted(id) { throw refused("it came back to ask, and was told that the tree does not run here") }
        }
    }

    /// Whether the source has said that its tree is no more.
    private func awaitDone(_ connection: ControlConnection) -> Bool {
        let end = Clock.monotonic() + Self.patience * 1_000_000_000
        while Clock.monotonic() < end {
            guard let (isHere, other) = try? wait(connection, milliseconds: 1000) else { return false }
            if isHere { return (try? connection.receive().kind) == .done }
            if other { answerOne() }
        }
        return false
    }

    /// Whether the source has said something, and whether somebody else has come.
    private func wait(_ connection: ControlConnection, milliseconds: Int = -1) throws -> (isHere: Bool, other: Bool) {
        if connection.pages.input.hasMore { return (true, false) }
        let ready = try Poll.wait(
            for: [(connection.pages.socket, events: Poll.readable)] + (listener.map { [($0.socket, events: Poll.readable)] } ?? []), milliseconds: milliseconds)
        return (ready[0] != 0, ready.dropFirst().contains { $0 != 0 })
    }

    /// The connection was cut when the source may not know what became of the tree: for some time it finds somebody to ask.
    private func answerDoubts() {
        guard let listener else { return }  // another stasis receive answers
        let end = Clock.monotonic() + Self.patience * 1_000_000_000
        while Clock.monotonic() < end {
            guard let ready = try? Poll.wait(for: [(listener.socket, events: Poll.readable)], milliseconds: 1000) else { return }
            if ready[0] != 0, answerOne() { return }
        }
    }

    /// True when it was the source of this migration.
    @discardableResult
    private func answerOne() -> Bool {
        guard let listener else { return false }
        let pages: PageConnection
        do { pages = try listener.accept(within: 2) } catch {
            log.warn("\(error)")
            return false
        }
        let other = ControlConnection(pages, to: "a source")
        other.limitWaiting(toSeconds: 2)
        do {
            let hello = try other.expect(.hello)
            guard hello.text(0) == ControlMessage.magic, hello.text(2) == "outcome" else {
                try other.send(ControlMessage(refusal: CheckpointError("serve", .object("the source"), "another tree is being received", remedy: "start another stasis receive")))
                return false
            }
            try answer(hello, other)
            return hello.text(3) == id
        } catch {
            log.warn("\(error)")
            return false
        }
    }

    /// Until the tree runs, its TCP connections' packets are held back: this machine must not answer them with RST when it has the address
    /// but not the sockets yet.
    private func holdConnections(_ images: FileDescriptor) throws -> ConnectionLock? {
        guard settings.tcpEstablished, !settings.tcpClose else { return nil }
        let directory = try ImageDirectory(images)
        let connections = try directory.all("files.img", FileEntry.self, optional: true).compactMap { entry -> ConnectionLock.Connection? in
            guard entry.hasIsk, directory.exists("tcp-stream-\(String(entry.isk.ino, radix: 16)).img") else { return nil }
            return .init(local: entry.isk.local, peer: entry.isk.peer)
        }
        if connections.isEmpty { return nil }
        return try CheckpointError.about("lock", .object("the network"), remedy: "load the kernel module nf_tables") {
            try ConnectionLock(connections, name: "stasis-\(ThreadID.current)-\(id.prefix(8))")
        }
    }
}
@available(*, unavailable) extension IncomingMigration: Sendable {}
