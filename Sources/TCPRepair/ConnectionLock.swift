public import Linux

/// Holds back the packets of connections, or all of them, both ways, in the netfilter of this network namespace (`nft list ruleset` shows the table):
/// what a peer sends stays unanswered, to be sent again later, instead of being answered with RST by a host that no longer has the socket.
///
/// A lock goes with the value, and with this process, however it ends (NFT_TABLE_F_OWNER). `leave` makes one that stays.
public final class ConnectionLock {
    /// Packets with this SO_MARK pass: CRIU's number, so that each side's tools get through the other's locks.
    public static let mark: UInt32 = 0xc114

    public struct Connection: Equatable, Sendable {
        public var local: InetAddress, peer: InetAddress
        public init(local: InetAddress, peer: InetAddress) { (self.local, self.peer) = (local, peer) }
    }
    private let netfilter: Netfilter
    private let table: String
    /// Nil: all packets of the namespace.
    private let connections: [Connection]?
    private var isHeld = true

    /// - Parameter name: of the table; no other may have it.
    public convenience init(_ connections: [Connection], name: String) throws(SyscallError) { try self.init(of: connections, name: name) }

    /// Holds back all packets from and to this network namespace, whatever they are.
    public convenience init(ofAllNamed name: String) throws(SyscallError) { try self.init(of: nil, name: name) }

    private init(of connections: [Connection]?, name: String) throws(SyscallError) {
        (table, self.connections) = (name, connections)
        netfilter = try Netfilter()
        do throws(SyscallError) {
            try netfilter.commit(Self.messages(connections, table: name, owned: true, note: []))
        } catch {
            guard error.errno.rawValue == 95 /* EOPNOTSUPP: before Linux 5.12 */ else { throw error }
            try netfilter.commit(Self.messages(connections, table: name, owned: false, note: Note(.current)?.bytes ?? []))
        }
    }

    /// Lets packets through again.
    public func lift() {
        guard isHeld else { return }
        isHeld = false
        _ = try? netfilter.commit([Netfilter.deleteTable(table)])
    }
    deinit { lift() }

    /// Makes a lock of the same connections that stays when this one is lifted.
    /// - Parameters:
    ///   - name: by which `ConnectionLock.lift(_:)` finds it.
    ///   - owner: a task whose end the lock is for: as long as it lives (`liftStale`), the lock is a left-over. nil: it is none.
    public func leave(as name: String, unlessAlive owner: ThreadID?) throws(SyscallError) {
        try netfilter.commit(Self.messages(connections, table: name, owned: false, note: owner.flatMap { Note($0)?.bytes } ?? []))
    }

    /// Lifts a lock that was left. False when there is none of that name.
    @discardableResult
    public static func lift(_ name: String) throws(SyscallError) -> Bool {
        guard Netfilter.isLoaded else { return false }
        do throws(SyscallError) { try Netfilter().commit([Netfilter.deleteTable(name)]) }
        catch {
            if error.errno.rawValue == 2 /* ENOENT */ { return false }
            throw error
        }
        return true
    }

    /// Lifts the locks whose task is alive although they are for the time after its end: those of a dump that was killed. Says their names.
    public static func liftStale() throws(SyscallError) -> [String] {
        guard Netfilter.isLoaded else { return [] }
        let netfilter = try Netfilter()
        var lifted = [String]()
        for table in try netfilter.tables() where !table.isOwned {
            guard let note = Note(bytes: table.note) else { continue }
            // A lock that could not be tied to its process is stale without it; one that waits for a restore is stale with its tree alive.
            if note.isAlive != (note.kind == .process) {
                try netfilter.commit([Netfilter.deleteTable(table.name)])
                lifted.append(table.name)
            }
        }
        return lifted
    }

    /// The locks that were left here, by stasis or by CRIU.
    public static func all() throws(SyscallError) -> [String] {
        guard Netfilter.isLoaded else { return [] }
        return try Netfilter().tables().filter { Note(bytes: $0.note) != nil || $0.name.hasPrefix("CRIU-") }.map(\.name)
    }

    private static func messages(_ connections: [Connection]?, table: String, owned: Bool, note: [UInt8]) -> [Netfilter.Message] {
        var messages = [Netfilter.newTable(table, owned: owned, note: note)]
        for (chain, hook) in Self.chains { messages.append(Netfilter.newChain(chain, in: table, hook: hook, drops: connections == nil)) }
        guard let connections else { return messages + Self.chains.map { Netfilter.acceptRule(in: $0.name, of: table, mark: mark) } }
        // What a v4-mapped IPv6 socket exchanges is IPv4.
        let plain = Set(connections.flatMap { one -> [Pair] in
            let local = one.local.unscoped, peer = one.peer.unscoped
            return [Pair(from: peer, to: local), Pair(from: local, to: peer)]
        })
        for (id, v4) in [(UInt32(1), true), (2, false)] {
            let mine = plain.filter { ($0.from.family == InetAddress.ipv4) == v4 }.map { ($0.from, $0.to) }
            if mine.isEmpty { continue }
            let set = v4 ? "connections4" : "connections6"
            messages.append(Netfilter.newSet(set, id: id, in: table, v4: v4))
            messages += Netfilter.add(mine, toSet: set, in: table)
            for (chain, _) in Self.chains {
                messages.append(Netfilter.dropRule(in: chain, of: table, set: set, id: id, v4: v4, exceptMark: mark))
            }
        }
        return messages
    }
    private static let chains: [(name: String, hook: UInt32)] = [("input", 1), ("output", 3)]
    private struct Pair: Hashable { var from: InetAddress, to: InetAddress }
}

extension InetAddress {
    fileprivate var unscoped: InetAddress {
        var plain = unmapped
        plain.scope = 0
        return plain
    }
}

/// What a lock's table says of the task that it belongs to: "stasis lock of PID STARTTIME", and for a lock that is meant to outlive it "until restore".
struct Note: Equatable {
    enum Kind: String { case process = "held by", restore = "until restore of" }
    var kind: Kind
    var pid: Int32
    /// Field 22 of /proc/PID/stat: tells a task from a later one with the same id.
    var started: UInt64

    init?(_ task: ThreadID) {
        guard let stat = try? TaskStat.read("/proc/\(task)/stat") else { return nil }
        (kind, pid, started) = (task == .current ? .process : .restore, task.rawValue, stat.startTime)
    }
    var bytes: [UInt8] { Array("stasis lock \(kind.rawValue) \(pid) \(started)".utf8) }
    init?(bytes: [UInt8]) {
        let words = String(decoding: bytes, as: UTF8.self).split(separator: " ").map(String.init)
        guard words.count >= 5, words[0] == "stasis", words[1] == "lock", let pid = Int32(words[words.count - 2]), let started = UInt64(words[words.count - 1]),
            let kind = Kind(rawValue: words[2..<(words.count - 2)].joined(separator: " "))
        else { return nil }
        (self.kind, self.pid, self.started) = (kind, pid, started)
    }
    var isAlive: Bool {
        guard let stat = try? TaskStat.read("/proc/\(pid)/stat") else { return false }
        return stat.startTime == started && stat.state != "Z" && stat.state != "X"
    }
}
