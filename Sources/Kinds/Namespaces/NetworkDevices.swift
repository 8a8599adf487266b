import Glibc
import ImageMessages
import Linux

/// The interfaces of this thread's network namespace, as rtnetlink(7) shows and makes them (struct ifinfomsg and IFLA_*, include/uapi/linux/if_link.h). Kinds that
/// CRIU's images have no place for are refused by name; a script can take them away before a dump and make them again at `setup-namespaces`.
enum NetworkDevices {
    private struct Link {
        let index: UInt32, flags: UInt32, isLoopback: Bool
        let name: String, mtu: UInt32, address: [UInt8]
        /// "veth"; empty for hardware, and for the loopback interface.
        let kind: String
        /// What is particular to the kind (IFLA_INFO_DATA), and of the kind `tun`, whose attributes have no other form.
        let data: [UInt16: [UInt8]]
        /// Another interface that this one stands on, or a veth's other end; its number in another namespace where `isRelatedElsewhere`.
        let related: UInt32?, isRelatedElsewhere: Bool
        /// The bridge that it is a port of.
        let master: UInt32?

        init?(_ message: [UInt8]) {
            guard message.count >= 16 else { return nil }
            isLoopback = message.word(UInt16.self, at: 2) == 772  // ARPHRD_LOOPBACK
            (index, flags) = (message.word(at: 4), message.word(at: 8))
            let attributes = NetlinkMessage.attributes(message, from: 16), info = NetlinkMessage.attributes(attributes[18] ?? [])
            func text(_ bytes: [UInt8]?) -> String { String(decoding: (bytes ?? []).prefix { $0 != 0 }, as: UTF8.self) }
            (name, mtu, address) = (text(attributes[3]), attributes[4]?.word(at: 0) ?? 0, attributes[1] ?? [])
            (kind, data) = (text(info[1]), NetlinkMessage.attributes(info[2] ?? []))
            (related, isRelatedElsewhere, master) = (attributes[5]?.word(at: 0), attributes[37] != nil, attributes[10]?.word(at: 0))
        }
        var subject: CheckpointError.Subject { NetworkDevices.subject(name) }
    }
    private static func subject(_ name: String) -> CheckpointError.Subject { .object("network interface \(name)") }

    /// Made by the kernel in every namespace when the module of the tunnel is loaded.
    private static let fallbacks: Set<String> = ["tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"]

    /// IFLA_BR_FORWARD_DELAY, _HELLO_TIME, _MAX_AGE, _AGEING_TIME, _STP_STATE, _PRIORITY, _VLAN_FILTERING, _VLAN_PROTOCOL, _GROUP_FWD_MASK: the others tell how it is going.
    /// - Parameter other: where a value is the same as there it is left out.
    private static func settable(bridge data: [UInt16: [UInt8]], besides other: [UInt16: [UInt8]] = [:]) -> [UInt8] {
        (UInt16(1)...9).flatMap { type in data[type].map { $0 == other[type] ? [] : NetlinkMessage.attribute(type, $0) } ?? [] }
    }

    // MARK: Dump

    static func dump(in namespace: UInt32, _ context: DumpContext) throws -> [NetDeviceEntry] {
        try links(NetlinkConnection(0)).filter { !fallbacks.contains($0.name) }.compactMap { link in try context.attempt { try dump(link, in: namespace) } }
    }

    private static func links(_ netlink: NetlinkConnection) throws(SyscallError) -> [Link] {
        try netlink.list(RouteNetlink.getLink, [UInt8](repeating: 0, count: 16)).compactMap { Link($0.body) }
    }

    private static func dump(_ link: Link, in namespace: UInt32) throws -> NetDeviceEntry {
        var entry = NetDeviceEntry()
        let script = "remove it before the dump, and make it again from a script at setup-namespaces (--action-script)"
        switch link.kind {
        case "" where link.isLoopback: entry.type = .loopback
        case "veth": entry.type = .veth
        case "bridge":
            entry.type = .bridge
            entry.bridge = .init(imageBytes: settable(bridge: link.data))
        case "macvlan":
            if link.isRelatedElsewhere { throw CheckpointError("dump", link.subject, "the interface it stands on is in another network namespace: not supported yet", remedy: script) }
            entry.type = .macvlan
            entry.macvlan.mode = link.data[1]?.word(at: 0) ?? 0
            if let flags = link.data[2] { entry.macvlan.flags = UInt32(flags.word(UInt16.self, at: 0)) }
        case "tun":
            entry.type = .tun
            entry.tun = TunFile.link(link.data)
        case "": throw CheckpointError("dump", link.subject, "it is hardware that was moved into the tree's network namespace: not supported yet",
                                       remedy: "move it out before the dump (ip link set \(link.name) netns 1), and back in from a script at setup-namespaces (--action-script)")
        default: throw CheckpointError("dump", link.subject, "its kind, \(link.kind), is not supported yet", remedy: script)
        }
        (entry.ifindex, entry.mtu, entry.flags, entry.name) = (link.index, link.mtu, link.flags, link.name)
        if entry.type != .loopback, !link.address.isEmpty { entry.address = .init(imageBytes: link.address) }
        (entry.conf4, entry.conf6) = (NetworkSysctls.dump4(link.name), NetworkSysctls.dump6(link.name))
        if let master = link.master { entry.master = master }
        entry.peerIfindex = link.related ?? link.index
        if !link.isRelatedElsewhere { entry.peerNsid = namespace }
        return entry
    }

    // MARK: Restore

    private static let linkInfo: UInt16 = 18, infoKind: UInt16 = 1, infoData: UInt16 = 2, name: UInt16 = 3, mtu: UInt16 = 4, below: UInt16 = 5, master: UInt16 = 10, address: UInt16 = 1
    private static let nested: UInt16 = 0x8000, namespaceDescriptor: UInt16 = 28

    /// Makes all that a new namespace does not have, those first that others stand on, and then sets them up.
    static func restore(_ devices: [NetDeviceEntry], _ stay: NetworkStay, _ context: RestoreContext) throws {
        let netlink = try NetlinkConnection(0)
        var made = Set(devices.filter { $0.type == .loopback }.map(\.ifindex)), left = devices.filter { $0.type != .loopback }
        while let next = left.firstIndex(where: { $0.type != .macvlan || made.contains($0.peerIfindex) }) {
            let device = left.remove(at: next)
            if made.contains(device.ifindex) { continue }  // the other end of a veth
            try CheckpointError.about("restore", subject(device.name)) {
                if device.type == .tun { return try TunFile.makeInterface(device, context) }
                let body = try message(for: device, all: devices, stay, context)
                try netlink.change(RouteNetlink.newLink, flags: NetlinkMessage.create | 0x200 /* NLM_F_EXCL */, body)
                if device.type == .bridge { try setOptions(of: device, netlink) }
                if device.type == .veth { if device.hasPeerNsid { made.insert(device.peerIfindex) } else if !context.checksOnly { try OuterEnd(of: device, context)?.connect(stay, context) } }
            }
            made.insert(device.ifindex)
        }
        if let first = left.first { throw CheckpointError("restore", subject(first.name), "interface \(first.peerIfindex), which it stands on, is not in the images") }
        for device in devices {
            try CheckpointError.about("restore", subject(device.name)) {
                if device.hasMaster { try netlink.change(RouteNetlink.newLink, header(device.ifindex) + NetlinkMessage.attribute(master, device.master)) }
                let interface = Interface(device.name)
                if device.hasMtu, try interface.mtu() != device.mtu { try interface.set(mtu: device.mtu) }
                try NetworkSysctls.restore(device.name, device.conf4, device.conf6, skippingMissing: context.settings.weakSysctls)
                try interface.set(flags: device.flags)
            }
        }
    }

    /// What a new bridge has otherwise: kernels without VLANs, for instance, refuse to be told about them.
    private static func setOptions(of bridge: NetDeviceEntry, _ netlink: NetlinkConnection) throws(SyscallError) {
        let now = try links(netlink).first { $0.index == bridge.ifindex }
        let data = settable(bridge: NetlinkMessage.attributes(Array(bridge.bridge)), besides: now?.data ?? [:])
        if data.isEmpty { return }
        let info = NetlinkMessage.attribute(infoKind, text: "bridge") + NetlinkMessage.attribute(infoData | nested, data)
        try netlink.change(RouteNetlink.newLink, header(bridge.ifindex) + NetlinkMessage.attribute(linkInfo | nested, info))
    }

    private static func header(_ index: UInt32) -> [UInt8] { little32(0) + little32(index) + little32(0) + little32(0) }
    private static func properties(_ device: NetDeviceEntry) -> [UInt8] {
        NetlinkMessage.attribute(name, text: device.name) + (device.hasMtu ? NetlinkMessage.attribute(mtu, device.mtu) : [])
            + (device.hasAddress ? NetlinkMessage.attribute(address, Array(device.address)) : [])
    }

    private static func message(for device: NetDeviceEntry, all: [NetDeviceEntry], _ stay: NetworkStay, _ context: RestoreContext) throws -> [UInt8] {
        var data = [UInt8](), more = [UInt8]()
        let kind: String
        switch device.type {
        case .bridge: kind = "bridge"
        case .macvlan:
            kind = "macvlan"
            data = NetlinkMessage.attribute(1, device.macvlan.mode)
            if device.macvlan.hasFlags { data += NetlinkMessage.attribute(2, Array(little32(device.macvlan.flags).prefix(2))) }
            more = NetlinkMessage.attribute(below, device.peerIfindex)
        case .veth:
            kind = "veth"
            data = NetlinkMessage.attribute(1 /* VETH_INFO_PEER */ | nested, try otherEnd(of: device, all: all, stay, context))
        default: throw CheckpointError("restore", subject(device.name), "interfaces of type \(device.type) are not supported yet")
        }
        let info = NetlinkMessage.attribute(infoKind, text: kind) + (data.isEmpty ? [] : NetlinkMessage.attribute(infoData | nested, data))
        return header(device.ifindex) + properties(device) + more + NetlinkMessage.attribute(linkInfo | nested, info)
    }

    private static func otherEnd(of device: NetDeviceEntry, all: [NetDeviceEntry], _ stay: NetworkStay, _ context: RestoreContext) throws -> [UInt8] {
        if device.hasPeerNsid {
            guard let peer = all.first(where: { $0.ifindex == device.peerIfindex && $0.type == .veth }) else {
                throw CheckpointError("restore", subject(device.name), "its other end, interface \(device.peerIfindex), is not in the images")
            }
            return header(peer.ifindex) + properties(peer)
        }
        guard let outside = OuterEnd(of: device, context) else {
            throw CheckpointError("restore", subject(device.name), "its other end was outside the tree's network namespace", remedy: "name that end with --external veth[\(device.name)]:NAME, or NAME@BRIDGE to make it a port of a bridge; or put the tree into a namespace that has it, with --join-ns net:FILE")
        }
        try stay.outside { try outside.check(subject(device.name)) }
        // A check shows the world outside nothing of it, nor any peer that could be answered.
        if context.checksOnly { return header(device.ifindex | 1 << 30) }  // a number that no interface of the images has
        return header(0) + NetlinkMessage.attribute(name, text: outside.interface.name) + NetlinkMessage.attribute(namespaceDescriptor, UInt32(bitPattern: stay.own.number))
    }

    /// The other end of a veth that leads out of the namespace, in ours: --external veth[NAME]:OUT@BRIDGE.
    private struct OuterEnd {
        let interface: Interface, bridge: Interface?

        init?(of device: NetDeviceEntry, _ context: RestoreContext) {
            let parts = (context.settings.external.value("veth", device.name) ?? "").split(separator: "@", maxSplits: 1).map { Interface(String($0)) }
            guard let first = parts.first else { return nil }
            (interface, bridge) = (first, parts.count > 1 ? parts[1] : nil)
        }

        func check(_ subject: CheckpointError.Subject) throws {
            if (try? interface.index()) != nil { throw CheckpointError("restore", subject, "the name of its other end, \(interface.name), is taken", remedy: "remove that interface, or give another name with --external") }
            guard let bridge else { return }
            _ = try CheckpointError.about("restore", subject, remedy: "make the bridge first") { try bridge.index() }
        }

        /// A port of its bridge, and up. When the restore fails it goes before the lock of the namespace does.
        func connect(_ stay: NetworkStay, _ context: RestoreContext) throws {
            let (index, port) = try stay.outside { (try interface.index(), try bridge?.index()) }
            context.undo.append { stay.outside { _ = try? NetlinkConnection(0).change(RouteNetlink.deleteLink, header(index)) } }
            guard let port else { return }
            try stay.outside {
                try NetlinkConnection(0).change(RouteNetlink.newLink, header(index) + NetlinkMessage.attribute(master, port))
                try interface.set(flags: try interface.flags() | 1)  // IFF_UP
            }
        }
    }
}
