import CLinux
import Glibc

/// nf_tables, spoken by us over NETLINK_NETFILTER (include/uapi/linux/netfilter/nf_tables.h): a table of family inet with sets, chains and
/// rules; enough to hold packets back. What it makes is what `nft list ruleset` shows.
public final class Netfilter {
    /// One of the kernel's tables.
    public struct Table: Equatable, Sendable {
        public var name: String
        /// What its maker wrote on it (NFTA_TABLE_USERDATA).
        public var note: [UInt8]
        /// NFT_TABLE_F_OWNER: it goes with its maker.
        public var isOwned: Bool
    }
    /// One message of a transaction.
    public struct Message: Sendable {
        var type: UInt16, flags: UInt16, attributes: [UInt8]
    }
    public static let inet: UInt8 = 1
    private static let subsystem: UInt16 = 10
    private let socket: FileDescriptor

    /// - Parameter namespace: an open /proc/PID/ns/net; nil for ours.
    public init(in namespace: FileDescriptor? = nil) throws(SyscallError) {
        socket = try NetworkNamespace.inside(namespace) { () throws(SyscallError) in try FileDescriptor.socket(16 /* AF_NETLINK */, 3 /* SOCK_RAW */, 12) }
        // A transaction is one datagram; NETLINK_ADD_MEMBERSHIP and the like stay off.
        _ = try? socket.setOption(SocketOption.sendBufferForce, to: Int32(1 << 24))
        _ = try? socket.setOption(SocketOption.receiveBufferForce, to: Int32(1 << 22))
        try socket.bind(SocketAddress(bytes: [16, 0, 0, 0] + [UInt8](repeating: 0, count: 8)))
    }

    /// Whether the kernel has nf_tables loaded: asking for tables would load it.
    public static var isLoaded: Bool {
        (try? Files.status("/sys/module/nf_tables")) != nil || (try? Files.status("/proc/sys/net/netfilter/nf_log")) != nil
    }

    // MARK: transactions

    /// Carries out all messages, or none (NFNL_MSG_BATCH_BEGIN and _END).
    public func commit(_ messages: [Message]) throws(SyscallError) {
        func frame(_ type: UInt16, _ flags: UInt16, _ sequence: Int, _ family: UInt8, _ resource: UInt16, _ body: [UInt8]) -> [UInt8] {
            let head = little32(UInt32(20 + body.count)) + little32(UInt32(type) | UInt32(flags) << 16)
            return head + little32(UInt32(sequence)) + [0, 0, 0, 0, family, 0, UInt8(resource >> 8), UInt8(resource & 0xff)] + body
        }
        var bytes = frame(0x10, 1, 0, 0, Self.subsystem, [])
        for (at, message) in messages.enumerated() {
            let acknowledge: UInt16 = at == messages.count - 1 ? 4 : 0  // NLM_F_ACK
            bytes += frame(Self.subsystem << 8 | message.type, 1 | message.flags | acknowledge, at + 1, Self.inet, 0, message.attributes)
        }
        bytes += frame(0x11, 1, messages.count + 1, 0, Self.subsystem, [])
        try socket.send(bytes, to: SocketAddress(bytes: [16, 0, 0, 0] + [UInt8](repeating: 0, count: 8)))
        // Everything has happened when sendmsg(2) returns: the answers wait.
        var failure: SyscallError?
        while let answer = try socket.receive(room: 1 << 16, flags: 0x40 /* MSG_DONTWAIT */) {
            var at = 0
            while at + 20 <= answer.bytes.count {
                let length = Int(answer.bytes.word(UInt32.self, at: at)), type = UInt16(truncatingIfNeeded: answer.bytes.word(UInt32.self, at: at + 4))
                guard length >= 16, length <= answer.bytes.count - at else { break }
                if type == 2, length >= 20 {
                    let code = Int32(bitPattern: answer.bytes.word(UInt32.self, at: at + 16))
                    if code < 0 && failure == nil { failure = SyscallError("nf_tables", nil, -code) }
                }
                at += (length + 3) & ~3
            }
        }
        if let failure { throw failure }
    }

    /// The tables of a family; 0 for all.
    public func tables(family: UInt8 = inet) throws(SyscallError) -> [Table] {
        let request = NetlinkMessage(Self.subsystem << 8 | 1, flags: NetlinkMessage.request | NetlinkMessage.dump, [family, 0, 0, 0])
        try socket.send(request.bytes, to: SocketAddress(bytes: [16, 0, 0, 0] + [UInt8](repeating: 0, count: 8)))
        var found = [Table](), done = false
        while !done {
            guard let answer = try socket.receive(room: 1 << 16, flags: 0) else { continue }
            done = try SocketDiag.parseMessages(answer.bytes) { if let table = Self.parseTable($0) { found.append(table) } } == .done
        }
        return found
    }

    /// struct nfgenmsg (4 bytes), then attributes: name 1, flags 2 (big-endian), user data 6.
    static func parseTable(_ message: ArraySlice<UInt8>) -> Table? {
        let bytes = Array(message)
        guard bytes.count >= 4 else { return nil }
        var name: String?, note = [UInt8](), owned = false, at = 4
        while at + 4 <= bytes.count {
            let length = Int(bytes[at]) | Int(bytes[at + 1]) << 8, type = Int(bytes[at + 2]) | Int(bytes[at + 3] & 0x3f) << 8
            guard length >= 4, length <= bytes.count - at else { return nil }
            let value = Array(bytes[(at + 4)..<(at + length)])
            switch type {
            case 1: name = String(decoding: value.prefix { $0 != 0 }, as: UTF8.self)
            case 2 where value.count == 4: owned = value[3] & 2 != 0
            case 6: note = value
            default: break
            }
            at += (length + 3) & ~3
        }
        return name.map { Table(name: $0, note: note, isOwned: owned) }
    }

    // MARK: messages

    private static let create: UInt16 = 0x400, exclusive: UInt16 = 0x200, append: UInt16 = 0x800

    /// - Parameters:
    ///   - owned: it goes when this object does (NFT_TABLE_F_OWNER, Linux 5.12; EOPNOTSUPP before).
    ///   - note: up to 256 bytes for `Table.note`.
    public static func newTable(_ name: String, owned: Bool, note: [UInt8]) -> Message {
        Message(type: 0, flags: create | exclusive, attributes: text(1, name) + number(2, owned ? 2 : 0) + (note.isEmpty ? [] : attribute(6, note)))
    }
    public static func deleteTable(_ name: String) -> Message { Message(type: 2, flags: 0, attributes: text(1, name)) }

    /// A filter chain.
    /// - Parameters:
    ///   - hook: NF_INET_LOCAL_IN 1, NF_INET_LOCAL_OUT 3.
    ///   - drops: what becomes of packets that no rule decides about.
    public static func newChain(_ name: String, in table: String, hook: UInt32, drops: Bool = false) -> Message {
        let place = nest(4, number(1, hook) + number(2, 0))
        return Message(type: 3, flags: create, attributes: text(1, table) + text(3, name) + place + number(5, drops ? 0 : 1) + text(7, "filter"))
    }

    /// Accepts packets that bear `mark`.
    public static func acceptRule(in chain: String, of table: String, mark: UInt32) -> Message {
        let rule = meta(3) + compare(0, little32(mark)) + verdict(1)
        return Message(type: 6, flags: create | append, attributes: text(1, table) + text(2, chain) + nest(4, rule))
    }

    /// A set of connections: source and destination address, source and destination port, each padded to four bytes.
    public static func newSet(_ name: String, id: UInt32, in table: String, v4: Bool) -> Message {
        // nft's numbers of types, six bits each: ipv4_addr 7, ipv6_addr 8, inet_service 13.
        let address: UInt32 = v4 ? 7 : 8, type = address << 18 | address << 12 | 13 << 6 | 13
        let attributes = text(1, table) + text(2, name) + number(3, 0) + number(4, type) + number(5, v4 ? 16 : 40) + number(10, id)
        return Message(type: 9, flags: create, attributes: attributes)
    }
    /// Packets from `from` to `to`.
    public static func add(_ pairs: [(from: InetAddress, to: InetAddress)], toSet name: String, in table: String) -> [Message] {
        stride(from: 0, to: pairs.count, by: 500).map { start in
            let elements = pairs[start..<min(pairs.count, start + 500)].flatMap { pair -> [UInt8] in
                func port(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xff), 0, 0] }
                let key = pair.from.bytes + pair.to.bytes + port(pair.from.port) + port(pair.to.port)
                return nest(1, nest(1, attribute(1, key)))
            }
            return Message(type: 12, flags: create, attributes: text(1, table) + text(2, name) + nest(3, elements))
        }
    }

    /// Drops TCP packets whose connection is in the set, unless they bear `mark`.
    public static func dropRule(in chain: String, of table: String, set: String, id: UInt32, v4: Bool, exceptMark mark: UInt32) -> Message {
        // Registers of four bytes begin at 8; base 1 is the network header, 2 the transport header.
        func load(_ register: UInt32, _ base: UInt32, _ offset: UInt32, _ length: UInt32) -> [UInt8] {
            expression("payload", number(1, register) + number(2, base) + number(3, offset) + number(4, length))
        }
        var rule = meta(3) + compare(1, little32(mark))
        rule += meta(15) + compare(0, [v4 ? 2 : 10]) + meta(16) + compare(0, [6])  // NFT_META_NFPROTO, NFT_META_L4PROTO
        let words: UInt32 = v4 ? 1 : 4, start: UInt32 = v4 ? 12 : 8
        rule += load(8, 1, start, 4 * words) + load(8 + words, 1, start + 4 * words, 4 * words)
        rule += load(8 + 2 * words, 2, 0, 2) + load(9 + 2 * words, 2, 2, 2)
        rule += expression("lookup", text(1, set) + number(2, 8) + number(4, id))
        rule += verdict(0)
        return Message(type: 6, flags: create | append, attributes: text(1, table) + text(2, chain) + nest(4, rule))
    }

    private static func expression(_ name: String, _ data: [UInt8]) -> [UInt8] { nest(1, text(1, name) + nest(2, data)) }
    /// Into register 1. NFT_META_MARK 3, in native order; NFT_META_NFPROTO 15; NFT_META_L4PROTO 16.
    private static func meta(_ key: UInt32) -> [UInt8] { expression("meta", number(2, key) + number(1, 1)) }
    /// Register 1 with a value: 0 goes on where they are equal, 1 where they are not.
    private static func compare(_ operation: UInt32, _ value: [UInt8]) -> [UInt8] { expression("cmp", number(1, 1) + number(2, operation) + nest(3, attribute(1, value))) }
    /// NF_DROP 0, NF_ACCEPT 1.
    private static func verdict(_ code: UInt32) -> [UInt8] { expression("immediate", number(1, 0) + nest(2, nest(2, number(1, code)))) }

    // Attributes: u16 length, u16 type (NLA_F_NESTED 0x8000), value, padded to four bytes. Numbers are big-endian here.
    private static func attribute(_ type: UInt16, _ value: [UInt8]) -> [UInt8] {
        let length = 4 + value.count
        precondition(length <= 0xffff, "an attribute of \(length) bytes")
        return [UInt8(length & 0xff), UInt8(length >> 8), UInt8(type & 0xff), UInt8(type >> 8)] + value + [UInt8](repeating: 0, count: -length & 3)
    }
    private static func nest(_ type: UInt16, _ value: [UInt8]) -> [UInt8] { attribute(type | 0x8000, value) }
    private static func text(_ type: UInt16, _ value: String) -> [UInt8] { attribute(type, Array(value.utf8) + [0]) }
    private static func number(_ type: UInt16, _ value: UInt32) -> [UInt8] { attribute(type, stride(from: 24, through: 0, by: -8).map { UInt8(truncatingIfNeeded: value >> $0) }) }
}
