public import ImageMessages
public import Linux

/// The images of one network namespace (format README 15.4), as values.
public struct NetworkImages: Sendable {
    public var entry: NetnsEntry
    public var devices: [NetDeviceEntry] = []
    /// Messages of rtnetlink(7), as the kernel listed them.
    public var addresses: [NetlinkMessage] = [], routes: [NetlinkMessage] = [], rules: [NetlinkMessage] = []
    /// Messages of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
    public var connections: [NetlinkMessage] = [], expectations: [NetlinkMessage] = []
    /// What `nft list ruleset`, `iptables-save` and `ip6tables-save` print.
    public var nftables = "", iptables = "", ip6tables = ""

    /// What `ip … save` begins its files with (iproute2).
    public enum Magic {
        public static let addresses: UInt32 = 0x4736_1222, routes: UInt32 = 0x4531_1224, rules: UInt32 = 0x7170_6986
    }

    /// Of an external namespace there is only netns-ID.img.
    init(_ id: UInt32, _ directory: ImageDirectory) throws(ImageError) {
        entry = try directory.single(.netNamespace, id)
        if entry.hasExtKey { return }
        devices = try directory.all(.netDevices, id, optional: true)
        func messages(_ kind: ImageKind, _ magic: UInt32?, _ types: Set<UInt16>) throws(ImageError) -> [NetlinkMessage] {
            let name = kind.name(UInt64(id))
            guard directory.exists(name) else { return [] }
            var bytes = try directory.contents(of: name)
            if bytes.isEmpty { return [] }
            if let magic {
                guard bytes.word(at: 0) == magic else { throw ImageError(name, "it begins with 0x\(String(bytes.word(UInt32.self, at: 0), radix: 16)), not with 0x\(String(magic, radix: 16))") }
                bytes.removeFirst(4)
            }
            guard let found = NetlinkMessage.all(in: bytes) else { throw ImageError(name, "its last message is cut short, or one has a wrong length") }
            if let other = found.first(where: { !types.contains($0.type) }) { throw ImageError(name, "it has a message of type \(other.type), which does not belong there") }
            return found
        }
        addresses = try messages(.ifaddr, Magic.addresses, [RouteNetlink.newAddress])
        routes = try messages(.route, Magic.routes, [RouteNetlink.newRoute]) + messages(.route6, Magic.routes, [RouteNetlink.newRoute])
        rules = try messages(.rule, Magic.rules, [RouteNetlink.newRule])
        // CRIU 4.2 writes connections into both.
        connections = try messages(.netnsCt, nil, [ConnectionTracking.newConnection])
        expectations = try messages(.netnsExp, nil, [ConnectionTracking.newConnection, ConnectionTracking.newExpectation]).filter { $0.type == ConnectionTracking.newExpectation }
        func text(_ kind: ImageKind) throws(ImageError) -> String {
            let name = kind.name(UInt64(id))
            return directory.exists(name) ? String(decoding: try directory.contents(of: name), as: UTF8.self) : ""
        }
        (nftables, iptables, ip6tables) = (try text(.nftables), try text(.iptables), try text(.ip6tables))
    }
}
