import Glibc
package import ImageMessages
package import Images
package import Linux

/// The network namespace of a tree that is not on the network of whoever dumps and restores it: how it is saved, and where the tree goes.
///
/// The conductor's thread goes into it for as long as it looks at or makes what belongs there (setns(2) is per thread; what a thread makes is born where it is), and is back before anything else
/// is done. Its other threads, plugins and action scripts stay where stasis was called. docs/design/network-namespaces.md
package struct TreeNetwork {
    /// As the images number it.
    package let id: UInt32
    /// Whether it is not the network where the dump ran.
    private let isOwn: Bool
    /// The namespace that the tree is put into; nil: a new one, if it had its own.
    private let joined: FileDescriptor?
    /// What the new one is given; nil: nothing.
    private let content: NetworkImages?

    // MARK: Dump

    /// Saves the namespace that this thread is in, in the order of a restore.
    /// - Parameter key: what --external net[INODE]:KEY calls it; nothing else of it is saved then.
    static func dump(as id: UInt32, external key: String?, _ context: DumpContext) throws {
        var entry = NetnsEntry()
        if let key { entry.extKey = key } else if !context.settings.emptyNetwork {
            NetworkSysctls.dump(&entry)
            entry.sysctls = try CheckpointError.about("dump", .object("the sysctls of the network namespace")) { try NetworkSysctls.changed() }
        }
        try context.images.append(ImageFile<NetnsEntry>.netNamespace.name(id), entry)
        if key != nil || context.settings.emptyNetwork { return }
        for device in try NetworkDevices.dump(in: id, context) { try context.images.append(ImageFile<NetDeviceEntry>.netDevices.name(id), device) }
        try context.attempt { try CheckpointError.about("dump", .object("the addresses and routes of the network namespace")) { try NetworkAddressing.dump(id, context) } }
        try PacketFilters.dump(id, context)
        try CheckpointError.about("dump", .object("the network namespace's table of connections (conntrack)")) {
            let isUsed = ConnectionTracking.isUsed
            try context.images.writeRaw(ImageKind.netnsCt.name(UInt64(id)), isUsed ? try ConnectionTracking.connections().flatMap(\.bytes) : [])
            try context.images.writeRaw(ImageKind.netnsExp.name(UInt64(id)), isUsed ? try ConnectionTracking.expectations().flatMap(\.bytes) : [])
        }
    }

    // MARK: Restore

    /// - Parameters:
    ///   - ids: of the processes of the tree.
    ///   - host: of the process that dumped them.
    ///   - images: of network namespaces, by their ids.
    package init(_ ids: [TaskKobjIdsEntry], besides host: TaskKobjIdsEntry, _ images: [UInt32: NetworkImages], _ settings: RestoreSettings) throws {
        id = ids.first?.netNsID ?? host.netNsID
        isOwn = id != host.netNsID
        if let other = ids.first(where: { [id] in $0.netNsID != id }) {
            throw CheckpointError("restore", .object("the tree"), "its processes were in several network namespaces, \(id) and \(other.netNsID) of the images: not supported yet")
        }
        let external = isOwn ? images[id].flatMap { $0.entry.hasExtKey ? $0.entry.extKey : nil } : nil
        joined = try settings.joinedNetwork.map(Self.open) ?? external.flatMap { try Self.inherited($0, settings) }
        content = isOwn && joined == nil && !settings.emptyNetwork ? images[id] : nil
        guard isOwn, joined == nil, !settings.emptyNetwork else { return }
        let name = ImageFile<NetnsEntry>.netNamespace.name(id)
        guard let content else { throw CheckpointError("restore", .image(name), "it is missing", remedy: "put the tree into an existing namespace with --join-ns net:PID|FILE, or make an empty one with --empty-ns net") }
        guard !content.entry.hasExtKey else {
            throw CheckpointError("restore", .image(name), "the network namespace \(content.entry.extKey) was not dumped (--external net)", remedy: "open its file and give it with --inherit-fd fd[N]:\(content.entry.extKey), or with --join-ns net:FILE")
        }
        try PacketFilters.check(content)
    }

    /// --inherit-fd for an external one.
    private static func inherited(_ key: String, _ settings: RestoreSettings) throws -> FileDescriptor? {
        try settings.inherited.first { $0.key == key }.map { given in
            try CheckpointError.about("join", .object("network namespace \(key)"), remedy: "give the descriptor of a network namespace with --inherit-fd") { try NetworkNamespace.open("/proc/self/fd/\(given.descriptor)") }
        }
    }

    /// `PID|FILE` of --join-ns.
    private static func open(_ target: String) throws -> FileDescriptor {
        let isProcess = target.utf8.allSatisfy { $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }
        let file = "the file of a network namespace (ip netns add NAME makes /run/netns/NAME)"
        return try CheckpointError.about("join", .object("network namespace \(target)"), remedy: isProcess ? "name a process that lives, or \(file)" : "name \(file), or a process that is in it") {
            try NetworkNamespace.open(isProcess ? "/proc/\(target)/ns/net" : target)
        }
    }

    /// Goes there, making it if need be; nil when that is where we are.
    package func enter(_ context: RestoreContext) throws -> NetworkStay? {
        context.networkNamespaceID = id
        guard isOwn || joined != nil else { return nil }
        if isOwn { PacketLock.liftBeforeRun(context) }
        return try CheckpointError.about(joined == nil ? "make" : "join", .object("the network namespace"), remedy: "run as root, or with CAP_SYS_ADMIN") {
            try joined.map { try NetworkStay(in: $0) } ?? NetworkStay()
        }
    }

    /// Whether it is new: scripts may add to it at setup-namespaces.
    package var isNew: Bool { isOwn && joined == nil }

    /// Interfaces with their addresses, routes and rules: what sockets need.
    package func restore(_ stay: NetworkStay, _ context: RestoreContext) throws {
        guard let content else { return }
        for device in content.devices { context.networkDevices[device.name] = device }
        // From outside nothing comes in before the tree is there to answer.
        if content.devices.contains(where: { $0.type == .veth && !$0.hasPeerNsid }) { PacketLock.holdUntilRun(context) }
        try NetworkSysctls.restore(content.entry, skippingMissing: context.settings.weakSysctls)
        try NetworkSysctls.restoreChanged(content.entry.sysctls, all: false, skippingMissing: true)
        try NetworkDevices.restore(content.devices, stay, context)
        try NetworkAddressing.restore(content)
        for (device, conf6) in [("all", content.entry.allConf6), ("default", content.entry.defConf6)] + content.devices.map({ ($0.name, $0.conf6) }) {
            try NetworkSysctls.restoreDuplicateDetection(device, conf6)
        }
    }

    /// When all sockets are there: connections are brought back by packets of ours, which no rule is to stop.
    package func restoreFilters(_ context: RestoreContext) throws {
        guard let content else { return }
        try PacketFilters.restore(content)
        try NetworkSysctls.restoreChanged(content.entry.sysctls, all: true, skippingMissing: context.settings.weakSysctls)
        try CheckpointError.about("restore", .object("the network namespace's table of connections (conntrack)")) {
            try ConnectionTracking.add(content.connections + content.expectations)
        }
    }
}
