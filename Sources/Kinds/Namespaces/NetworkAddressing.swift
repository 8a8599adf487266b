import Glibc
import Images
import Linux

/// Addresses, routes and routing rules of this thread's network namespace, as messages of rtnetlink(7) that can be sent again; all tables of routes, of IPv4 and IPv6. What the kernel makes
/// itself out of addresses (routes of the table "local") is left to it.
enum NetworkAddressing {
    private static let ipv4: UInt8 = 2, ipv6: UInt8 = 10

    // MARK: Dump

    static func dump(_ namespace: UInt32, _ context: DumpContext) throws {
        let netlink = try NetlinkConnection(0), id = UInt64(namespace)
        func write(_ kind: ImageKind, _ magic: UInt32, _ messages: [NetlinkMessage]) throws {
            try context.images.writeRaw(kind.name(id), little32(magic) + messages.flatMap(\.bytes))
        }
        let addresses = try netlink.list(RouteNetlink.getAddress, [UInt8](repeating: 0, count: 8))
        try write(.ifaddr, NetworkImages.Magic.addresses, addresses.filter { [ipv4, ipv6].contains($0.body.first) })
        let routes = try netlink.list(RouteNetlink.getRoute, [UInt8](repeating: 0, count: 12)).filter { isKept(route: $0.body) }
        for route in routes where NetlinkMessage.attributes(route.body, from: 12)[nexthopObject] != nil {
            try context.refuse(CheckpointError("dump", .object("a route of the tree's network namespace"), "it leads over a nexthop object (ip nexthop): not supported yet", remedy: "give the route its gateway itself (ip route replace)"))
        }
        try write(.route, NetworkImages.Magic.routes, routes.filter { $0.body[0] == ipv4 })
        try write(.route6, NetworkImages.Magic.routes, routes.filter { $0.body[0] == ipv6 })
        try write(.rule, NetworkImages.Magic.rules, try rules(netlink))
    }

    /// struct rtmsg: family, lengths, tos, table, protocol, scope, type, flags (word at 8).
    private static func isKept(route: [UInt8]) -> Bool {
        guard route.count >= 12, [ipv4, ipv6].contains(route[0]) else { return false }
        let isKernels = route[5] == 2, isRedirect = route[5] == 1, isLocal = route[4] == 255, isCached = route.word(UInt32.self, at: 8) & 0x200 != 0
        return !(isKernels && isLocal) && !isRedirect && !isCached
    }

    /// struct fib_rule_hdr: family first. Those of multicast routing are the kernel's.
    private static func rules(_ netlink: NetlinkConnection) throws(SyscallError) -> [NetlinkMessage] {
        try netlink.list(RouteNetlink.getRule, [UInt8](repeating: 0, count: 12)).filter { [ipv4, ipv6].contains($0.body.first) }
    }

    // MARK: Restore

    /// - Parameter images: interfaces are up.
    static func restore(_ images: NetworkImages) throws {
        let netlink = try NetlinkConnection(0)
        // The kernel has made some itself, such as ::1, and would add a route to one that is set again.
        let there = Set(try netlink.list(RouteNetlink.getAddress, [UInt8](repeating: 0, count: 8)).map { identity(address: $0.body) })
        for address in images.addresses where !there.contains(identity(address: address.body)) {
            try CheckpointError.about("restore", .object("an address of interface \(address.body.word(UInt32.self, at: 4)) of the network namespace")) {
                try netlink.change(RouteNetlink.newAddress, flags: NetlinkMessage.create | NetlinkMessage.replace, address.body)
            }
        }
        try restoreRoutes(images.routes.map { settable(route: $0.body) }, netlink)
        try restoreRules(images.rules, netlink)
    }

    /// struct ifaddrmsg and its attributes, without the times when it was made and changed (IFA_CACHEINFO: two lifetimes, two times).
    private static func identity(address: [UInt8]) -> [UInt8] {
        let attributes = NetlinkMessage.attributes(address, from: 8)
        return address.prefix(8) + attributes.keys.sorted().flatMap { [UInt8(truncatingIfNeeded: $0)] + ($0 == 6 ? Array(attributes[$0]!.prefix(8)) : attributes[$0]!) }
    }

    /// A gateway has to be reachable by a route that is there: as long as some succeed the others are tried again.
    private static func restoreRoutes(_ routes: [[UInt8]], _ netlink: NetlinkConnection) throws {
        var left = routes
        while !left.isEmpty {
            var failed = [[UInt8]](), cause: SyscallError?
            for route in left {
                do throws(SyscallError) { try netlink.change(RouteNetlink.newRoute, flags: NetlinkMessage.create | NetlinkMessage.append, route) } catch {
                    if error.errno.rawValue == EEXIST { continue }  // came with an address
                    (cause, failed) = (cause ?? error, failed + [route])
                }
            }
            if let cause, failed.count == left.count { throw CheckpointError("restore", .object("\(left.count) routes of the network namespace"), "\(cause)", errno: cause.errno) }
            left = failed
        }
    }

    private static let nexthopObject: UInt16 = 30, multipath: UInt16 = 9
    /// RTNH_F_DEAD, _OFFLOAD, _LINKDOWN, _UNRESOLVED, _TRAP: what the kernel says of a next hop and does not want to be told; of a route RTM_F_OFFLOAD, _TRAP, _OFFLOAD_FAILED, too.
    private static let hopState: UInt8 = 1 | 8 | 16 | 32 | 64, routeState: UInt32 = 0x2000_c000

    private static func settable(route: [UInt8]) -> [UInt8] {
        var route = route
        if route.count < 12 { return route }
        route.put(route.word(UInt32.self, at: 8) & ~(UInt32(hopState) | routeState), at: 8)
        var at = 12
        while at + 4 <= route.count {
            let length = Int(route.word(UInt16.self, at: at))
            guard length >= 4, length <= route.count - at else { break }
            var hop = at + 4  // struct rtnexthop: length, flags, weight, interface, then attributes
            while route.word(UInt16.self, at: at + 2) & 0x3fff == multipath, hop + 8 <= at + length {
                let size = Int(route.word(UInt16.self, at: hop))
                guard size >= 8 else { break }
                route[hop + 2] &= ~hopState
                hop += (size + 3) & ~3
            }
            at += (length + 3) & ~3
        }
        return route
    }

    /// A new namespace has some already, mostly the same ones.
    private static func restoreRules(_ rules: [NetlinkMessage], _ netlink: NetlinkConnection) throws {
        let there = try self.rules(netlink).map(\.body), wanted = rules.map(\.body)
        try CheckpointError.about("restore", .object("the routing rules of the network namespace")) {
            for rule in wanted where !there.contains(rule) && rule.count >= 12 {
                // FRA_PRIORITY, which is not said where it is 0. FIB_RULE_UNRESOLVED, _IIF_DETACHED, _OIF_DETACHED are states.
                var rule = rule + (NetlinkMessage.attributes(rule, from: 12)[6] == nil ? NetlinkMessage.attribute(6, 0) : [])
                rule.put(rule.word(UInt32.self, at: 8) & ~0x1c, at: 8)
                try netlink.change(RouteNetlink.newRule, flags: NetlinkMessage.create, rule)
            }
            // CRIU saves those of IPv4 only.
            for rule in there where !wanted.contains(rule) && wanted.contains(where: { $0.first == rule.first }) { try netlink.change(RouteNetlink.deleteRule, rule) }
        }
    }
}
