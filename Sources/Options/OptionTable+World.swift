import Linux

/// What is around the tree: network, namespaces, cgroups, other machines.
extension OptionTable {
    private static let both: CommandSet = [.dump, .restore, .migrate, .receive]

    static let network: [OptionRow] = [
        OptionRow("tcp-established", negation: true, both, .network, "save and rebuild established TCP connections") { $0.tcpEstablished = $1.isOn },
        OptionRow("tcp-close", negation: true, both, .network, "leave established TCP connections out; restore them closed") { $0.tcpClose = $1.isOn },
        OptionRow("skip-in-flight", negation: true, [.dump, .migrate], .network, "ignore TCP connections that are still being made") { $0.skipInFlight = $1.isOn },
        OptionRow("ext-unix-sk", short: "x", taking: .optional("INODE,..."), both, .network, "permit unix sockets whose peer is outside the tree (better: --external unix[INODE])") {
            (options, value) throws(OptionError) in
            guard value.argument != nil else { return options.externalUnixSockets = .all }
            let more = try value.numbers()
            switch options.externalUnixSockets {
            case .none: options.externalUnixSockets = .inodes(more)
            case .inodes(let earlier): options.externalUnixSockets = .inodes(earlier + more)
            case .all: break
            }
        },
        OptionRow("network-lock", taking: .required("MODE"), [.dump, .migrate], .network, "hold packets back: nftables; iptables (default) means the same here; skip or none") {
            (options, value) throws(OptionError) in options.networkLock = try value.choice()
        },
        OptionRow("veth-pair", taking: .required("IN=OUT"), both, .network, "outside name of a veth device (better: --external veth[])") {
            (options, value) throws(OptionError) in
            let names = value.text.split(separator: "=", maxSplits: 1).map(String.init)
            guard names.count == 2 else { throw .usage("--veth-pair \"\(value.text)\": no pair of names", try: "IN=OUT") }
            options.externals.append(External(kind: .veth, id: names[0], value: names[1]))
        },
    ]

    static let namespaces: [OptionRow] = [
        OptionRow("root", short: "r", taking: .required("PATH"), .restore, .namespaces, status: .notYet("mount namespaces"), "directory that becomes the root of a restored mount namespace") {
            $0.root = $1.text
        },
        OptionRow("join-ns", short: "J", taking: .required("NS:PID|FILE"), .restore, .namespaces, "put the tree into an existing namespace (net so far); repeatable") {
            (options, value) throws(OptionError) in options.joinedNamespaces.append(try value.joinedNamespace())
        },
        OptionRow("empty-ns", taking: .required("net"), both, .namespaces, "make the net namespace, leave its content to action scripts") {
            (options, value) throws(OptionError) in
            guard value.text == "net" else { throw .usage("--empty-ns \"\(value.text)\": unknown namespace", try: "net") }
            options.emptyNetworkNamespace = true
        },
        OptionRow("ext-mount-map", short: "M", taking: .required("KEY:VALUE|auto"), both, .namespaces, status: .notYet("mount namespaces"), "old form of --external mnt[]") {
            $0.externalMountMaps.append($1.text)
        },
        OptionRow("enable-external-sharing", .dump, .namespaces, "old form of --external mnt[]:s") { $0.externalSharing = $1.isOn },
        OptionRow("enable-external-masters", .dump, .namespaces, "old form of --external mnt[]:m") { $0.externalMasters = $1.isOn },
        OptionRow("skip-mnt", taking: .required("PATH"), .dump, .namespaces, "leave this mount point out; repeatable") { $0.skippedMounts.append($1.text) },
        OptionRow("enable-fs", taking: .required("NAME,...|all"), both, .namespaces, status: .notYet("mount namespaces"), "mount these filesystem types without knowing them") {
            $0.enabledFilesystems += $1.text.split(separator: ",").map(String.init)
        },
        OptionRow("mntns-compat-mode", negation: true, .restore, .namespaces, "use the old way to restore mounts") { $0.mountCompatibilityMode = $1.isOn },
        OptionRow("weak-sysctls", negation: true, .restore, .namespaces, "skip sysctls that the kernel does not have") { $0.weakSysctls = $1.isOn },
        OptionRow("lsm-profile", taking: .required("TYPE:NAME"), .restore, .namespaces, "security label to restore under: apparmor:NAME or selinux:NAME") {
            (options, value) throws(OptionError) in
            guard SecurityModule.allCases.contains(where: { value.text.hasPrefix($0.rawValue + ":") && value.text.utf8.count > $0.rawValue.utf8.count + 1 }) else {
                throw .usage("--lsm-profile \"\(value.text)\": no security label", try: "apparmor:NAME or selinux:NAME")
            }
            options.lsmProfile = value.text
        },
        OptionRow("lsm-mount-context", taking: .required("CONTEXT"), .restore, .namespaces, status: .notYet("security labels"), "replaces the context= option of mounts that had one") {
            $0.lsmMountContext = $1.text
        },
    ]

    static let cgroups: [OptionRow] = [
        OptionRow("manage-cgroups", taking: .optional("MODE"), both, .cgroups, "ignore, none, props, soft (default), full or strict") {
            (options, value) throws(OptionError) in
            options.managesCgroups = true
            options.manageCgroups = value.argument == nil ? .soft : try value.choice()
        },
        OptionRow("cgroup-root", taking: .required("[CTRL:]/PATH"), both, .cgroups, "dump: root below which cgroups are recorded; restore: where to put them") {
            (options, value) throws(OptionError) in options.cgroupRoots.append(try value.cgroupRoot())
        },
        OptionRow("cgroup-props", taking: .required("TEXT"), .dump, .cgroups, "properties to record, as simplified YAML") { $0.cgroupProperties = $1.text },
        OptionRow("cgroup-props-file", taking: .required("FILE"), .dump, .cgroups, "the same from a file") { $0.cgroupPropertiesFile = $1.text },
        OptionRow("cgroup-dump-controller", taking: .required("NAME"), .dump, .cgroups, "record only the named controllers; repeatable") {
            $0.cgroupControllers.append($1.text)
        },
        OptionRow("cgroup-yard", taking: .required("DIR"), both, .cgroups, "directory that holds one mount a hierarchy") { $0.cgroupYard = $1.text },
    ]

    private static let servers: CommandSet = [.dump, .preDump, .pageServer, .lazyPages]
    static let connected: CommandSet = servers.union([.migrate, .receive])

    static let server: [OptionRow] = [
        OptionRow("page-server", negation: true, [.dump, .preDump, .lazyPages], .server, "send pages to a page server; lazy-pages: ask it for them") {
            $0.sendsToPageServer = $1.isOn
        },
        OptionRow("address", taking: .required("ADDR"), servers.union(.service), .server, "address of the page server, or path of the service's socket") { $0.address = $1.text },
        OptionRow("port", taking: .required("N"), servers, .server, "TCP port of the page server; a server takes a free one for 0") {
            (options, value) throws(OptionError) in options.port = try value.number(in: 0...UInt16.max)
        },
        OptionRow("ps-socket", taking: .required("FD"), servers, .server, "use this connected socket instead") {
            (options, value) throws(OptionError) in options.pageServerSocket = try value.descriptor()
        },
        OptionRow("daemon", negation: true, [.pageServer, .service, .lazyPages], .server, "go to the background") { $0.restoreDetached = $1.isOn },
        OptionRow("tls", negation: true, connected, .server, "encrypt connections; both ends show certificates") { $0.tls = $1.isOn },
        OptionRow("tls-cacert", taking: .required("FILE"), connected, .server, "trust this authority only (PEM; default: the system's, and /etc/pki/CA/cacert.pem)") { $0.tlsCACertificate = $1.text },
        OptionRow("tls-cacrl", taking: .required("FILE"), connected, .server, "list of revoked certificates (PEM; default: /etc/pki/CA/cacrl.pem)") { $0.tlsRevocationList = $1.text },
        OptionRow("tls-cert", taking: .required("FILE"), connected, .server, "our certificate (PEM; default: /etc/pki/criu/cert.pem)") { $0.tlsCertificate = $1.text },
        OptionRow("tls-key", taking: .required("FILE"), connected, .server, "our private key (PEM; default: /etc/pki/criu/private/key.pem)") { $0.tlsKey = $1.text },
        OptionRow("tls-no-cn-verify", connected, .server, "do not compare the server's name with its certificate") { $0.tlsVerifiesName = !$1.isOn },
    ]
}
