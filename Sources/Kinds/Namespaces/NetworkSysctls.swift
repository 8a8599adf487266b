import Glibc
import ImageMessages
import Linux

/// /proc/sys/net of this thread's network namespace: what IPv4 and IPv6 are to do with one interface, with `all`, and with new ones (`default`). In images the
/// values stand in the order of these lists (format README 15.4; Documentation/networking/ip-sysctl.rst).
enum NetworkSysctls {
    static let ipv4 = [
        "accept_local", "accept_redirects", "accept_source_route", "arp_accept", "arp_announce", "arp_filter", "arp_ignore", "arp_notify", "bootp_relay",
        "disable_policy", "disable_xfrm", "force_igmp_version", "forwarding", "igmpv2_unsolicited_report_interval", "igmpv3_unsolicited_report_interval",
        "log_martians", "medium_id", "promote_secondaries", "proxy_arp", "proxy_arp_pvlan", "route_localnet", "rp_filter", "secure_redirects", "send_redirects",
        "shared_media", "src_valid_mark", "tag", "ignore_routes_with_linkdown", "drop_gratuitous_arp", "drop_unicast_in_l2_multicast",
    ]
    static let ipv6 = [
        duplicateDetection, "accept_ra", "accept_ra_defrtr", "accept_ra_from_local", "accept_ra_min_hop_limit", "accept_ra_mtu", "accept_ra_pinfo",
        "accept_ra_rt_info_max_plen", "accept_ra_rtr_pref", "accept_redirects", "accept_source_route", "autoconf", "dad_transmits", "disable_ipv6",
        "drop_unicast_in_l2_multicast", "drop_unsolicited_na", "force_mld_version", "force_tllao", "forwarding", "hop_limit", "ignore_routes_with_linkdown",
        "keep_addr_on_down", "max_addresses", "max_desync_factor", "mldv1_unsolicited_report_interval", "mldv2_unsolicited_report_interval", "mtu", "ndisc_notify",
        "optimistic_dad", "proxy_ndp", "regen_max_retry", "router_probe_interval", "router_solicitation_delay", "router_solicitation_interval",
        "router_solicitations", "stable_secret", "suppress_frag_ndisc", "temp_prefered_lft", "temp_valid_lft", "use_oif_addrs_only", "use_optimistic", "use_tempaddr",
    ]
    /// While an address is looked for elsewhere nothing can be bound to it: it is off until all addresses are there.
    static let duplicateDetection = "accept_dad"
    private static let texts: Set<String> = ["stable_secret"]

    private static func path(_ version: String, _ device: String, _ name: String) -> String { "\(root)\(version)/conf/\(device)/\(name)" }

    // MARK: Dump

    static func dump4(_ device: String) -> [SysctlEntry] { ipv4.map { entry(path("ipv4", device, $0)) } }
    /// Empty where the kernel has no IPv6.
    static func dump6(_ device: String) -> [SysctlEntry] {
        guard (try? Files.status("/proc/sys/net/ipv6/conf/\(device)")) != nil else { return [] }
        return ipv6.map { entry(path("ipv6", device, $0), isText: texts.contains($0)) }
    }
    /// Without a value where the kernel gives none.
    private static func entry(_ path: String, isText: Bool = false) -> SysctlEntry {
        var entry = SysctlEntry()
        entry.type = isText ? .ctlStr : .ctl32
        guard let text = try? Files.text(path) else { return entry }
        if isText { entry.sarg = text } else if let value = Int32(text.prefix { $0 != "\n" }) { entry.iarg = value }
        return entry
    }

    /// The rest of what CRIU saves: how many datagrams a unix socket queues, and who may ping.
    static func dump(_ entry: inout NetnsEntry) {
        (entry.defConf4, entry.allConf4) = (dump4("default"), dump4("all"))
        (entry.defConf6, entry.allConf6) = (dump6("default"), dump6("all"))
        entry.unixConf = [Self.entry(unixQueue)]
        var range = Self.entry(pingRange, isText: true)
        if range.sarg.split(whereSeparator: \.isWhitespace) == ["1", "0"] { range.clearSarg() }  // nobody, as in every new namespace
        entry.ipv4Sysctl = [range]
    }

    /// NAME=VALUE of all the others that a new namespace does not have so, which it takes one to know.
    static func changed() throws(SyscallError) -> [String] {
        let here = others(), stay = try NetworkStay(), fresh = others()
        stay.leave()
        return here.filter { fresh[$0.key] != $0.value }.map { "\($0)=\($1)" }.sorted()
    }

    /// What can be read and set, but for what is of interfaces and what the images have a place of their own for.
    private static func others(in folder: String = "") -> [String: String] {
        var found = [String: String]()
        for name in (try? Files.names(in: root + folder)) ?? [] where !["conf", "neigh"].contains(name) {
            guard let status = try? Files.status(root + folder + name), !elsewhere.contains(folder + name) else { continue }
            if status.type == S_IFDIR { found.merge(others(in: "\(folder)\(name)/")) { _, last in last } }
            else if status.mode & 0o200 != 0, let text = try? Files.text(root + folder + name) { found[folder + name] = String(text.split(separator: "\n").first ?? "") }
        }
        return found
    }
    private static let root = "/proc/sys/net/"
    /// ip_forward is what conf/all/forwarding is, and writing it changes that of every interface.
    private static let elsewhere: Set<String> = ["unix/max_dgram_qlen", "ipv4/ping_group_range", "ipv4/ip_forward"]
    private static let unixQueue = root + "unix/max_dgram_qlen", pingRange = root + "ipv4/ping_group_range"

    // MARK: Restore

    /// `all` before `default`: some of `all` are given on to that.
    static func restore(_ entry: NetnsEntry, skippingMissing: Bool) throws {
        for device in ["all", "default"] {
            try restore(device, device == "all" ? entry.allConf4 : entry.defConf4, device == "all" ? entry.allConf6 : entry.defConf6, skippingMissing: skippingMissing)
            if !entry.allConf6.isEmpty { try? Files.write("0", to: path("ipv6", device, duplicateDetection)) }
        }
        for (path, values) in [(unixQueue, entry.unixConf), (pingRange, entry.ipv4Sysctl)] { if let value = values.first { try set(path, value, skippingMissing) } }
    }

    static func restore(_ device: String, _ conf4: [SysctlEntry], _ conf6: [SysctlEntry], skippingMissing: Bool) throws {
        for (version, names, values) in [("ipv4", ipv4, conf4), ("ipv6", ipv6, conf6)] {
            for (name, value) in zip(names, values) where name != duplicateDetection { try set(path(version, device, name), value, skippingMissing) }
        }
    }

    /// - Parameter all: also those that come with packet filters.
    static func restoreChanged(_ sysctls: [String], all: Bool, skippingMissing: Bool) throws {
        for sysctl in sysctls {
            let parts = sysctl.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            var value = SysctlEntry()
            (value.type, value.sarg) = (.ctlStr, parts.last ?? "")
            try set(root + parts[0], value, skippingMissing || !all)
        }
    }

    /// The last one, when all addresses are there.
    static func restoreDuplicateDetection(_ device: String, _ conf6: [SysctlEntry]) throws {
        if let value = conf6.first { try set(path("ipv6", device, duplicateDetection), value, true) }
    }

    /// Writes only what is different: /proc/sys may be read-only where nothing needs to change.
    private static func set(_ path: String, _ value: SysctlEntry, _ skippingMissing: Bool) throws {
        guard value.hasIarg || value.hasSarg else { return }
        let wanted = value.hasSarg ? value.sarg : String(value.iarg)
        let now = try? Files.text(path)
        if now?.split(whereSeparator: \.isWhitespace) == wanted.split(whereSeparator: \.isWhitespace) { return }
        do throws(SyscallError) { try Files.write(wanted, to: path) } catch {
            let isMissing = error.errno.rawValue == ENOENT
            if isMissing && skippingMissing { return }
            throw CheckpointError(
                "restore", .file(path), "\(error)", remedy: isMissing ? "this kernel does not have it: go without it with --weak-sysctls" : "let stasis write to /proc/sys", errno: error.errno)
        }
    }
}
