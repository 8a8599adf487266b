import CLinux
import Glibc
package import ImageMessages
import Images
import Linux

/// /dev/net/tun: a descriptor that is the other end of a network interface (tun and tap). An interface that goes with its last
/// descriptor is made again with its addresses and routes; one that stays (TUNSETPERSIST) is attached to.
package enum TunFile: OpenFileKind {
    package static var type: FdTypes { .tunf }

    private enum Request {
        static let setInterface: UInt = 0x4004_54ca, persist: UInt = 0x4004_54cb, setOwner: UInt = 0x4004_54cc, setGroup: UInt = 0x4004_54ce
        static let getInterface: UInt = 0x8004_54d2, getSendBuffer: UInt = 0x8004_54d3, setSendBuffer: UInt = 0x4004_54d4
        static let getHeaderSize: UInt = 0x8004_54d7, setHeaderSize: UInt = 0x4004_54d8, setQueue: UInt = 0x4004_54d9, setIndex: UInt = 0x4004_54da
        static let networkNamespace: UInt = 0x54e3
    }
    /// IFF_TUN 1, IFF_TAP 2, IFF_MULTI_QUEUE 0x100, IFF_NO_PI 0x1000, IFF_VNET_HDR 0x4000: what TUNSETIFF takes.
    private static let settable: UInt32 = 1 | 2 | 0x100 | 0x1000 | 0x4000
    private static let detached: UInt32 = 0x400, persistent: UInt32 = 0x800
    private static let up: UInt32 = 1  // IFF_UP

    package static func claims(_ file: OpenFile) -> Bool {
        file.status.type == S_IFCHR && FileStatus.kernelDevice(file.status.rdev) == 10 << 20 | 200
    }

    // MARK: Dump

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        try CheckpointError.about("dump", file.subject) {
            var path = FileEntry()
            (path.type, path.id) = (.reg, file.id)
            path.reg = try RegularFile.entry(of: file, id: file.id, context)
            path.reg.fown = try file.owner()
            try context.add(path)  // beside ours, with the same id (format README 11.2)
            var entry = FileEntry()
            (entry.type, entry.id) = (.tunf, file.id)
            entry.tunf.id = file.id
            if let (name, flags) = try attached(file.descriptor) {
                let namespace = FileDescriptor(owning: Int32(try file.descriptor.ioctl("TUNGETDEVNETNS", Request.networkNamespace)))
                guard try namespace.status().inode == Files.status("/proc/thread-self/ns/net").inode else {
                    throw CheckpointError("dump", file.subject, "its interface, \(name), belongs to another network namespace than the tree: not supported yet")
                }
                entry.tunf.netdev = name
                if flags & detached != 0 { entry.tunf.detached = true }
                entry.tunf.nsID = context.networkNamespaceID
                try fill(&entry.tunf, Interface(name), flags, file.descriptor)
            }
            return entry
        }
    }

    /// Name and flags of the interface; nil before TUNSETIFF (EBADFD).
    private static func attached(_ file: FileDescriptor) throws(SyscallError) -> (name: String, flags: UInt32)? {
        var request = Interface.request("", [])
        do throws(SyscallError) {
            try Syscall.call("ioctl(TUNGETIFF)", SYS_ioctl, bytes: &request, at: 2, Int(file.number), Int(Request.getInterface), on: .fd(file.number))
        } catch {
            if error.errno.rawValue == EBADFD { return nil }
            throw error
        }
        return (String(decoding: request.prefix { $0 != 0 }, as: UTF8.self), UInt32(request[16]) | UInt32(request[17]) << 8)
    }

    private static func fill(_ entry: inout TunfileEntry, _ interface: Interface, _ flags: UInt32, _ file: FileDescriptor) throws {
        func ask(_ name: String, _ request: UInt) throws -> UInt32 {
            var value: Int32 = 0
            try file.ioctl(name, request, &value)
            return UInt32(bitPattern: value)
        }
        entry.link.flags = flags & (settable | persistent)
        let owner = try RouteNetlink.tunOwner(of: try interface.index())
        (entry.link.owner, entry.link.group) = (owner.uid.map { Int32(bitPattern: $0) } ?? -1, owner.gid.map { Int32(bitPattern: $0) } ?? -1)
        entry.link.vnethdr = try ask("TUNGETVNETHDRSZ", Request.getHeaderSize)
        entry.link.sndbuf = try ask("TUNGETSNDBUF", Request.getSendBuffer)
        (entry.mtu, entry.flags, entry.ifindex) = (try interface.mtu(), try interface.flags(), try interface.index())
        entry.address = .init(imageBytes: try interface.hardwareAddress())
        entry.addresses = try RouteNetlink.addresses(of: entry.ifindex).map { .init(imageBytes: $0) }
        entry.routes = try RouteNetlink.routes(over: entry.ifindex).map { .init(imageBytes: $0) }
    }

    /// What rtnetlink says of a tun interface (IFLA_TUN_*, include/uapi/linux/if_link.h). Sizes of header and buffer only a file of it tells: they are those of every new one.
    static func link(_ data: [UInt16: [UInt8]]) -> TunLinkEntry {
        func isSet(_ attribute: UInt16) -> Bool { data[attribute]?.first ?? 0 != 0 }
        var link = TunLinkEntry()
        link.flags = UInt32(data[3]?.first ?? 1) | (isSet(4) ? 0 : 0x1000) | (isSet(5) ? 0x4000 : 0) | (isSet(6) ? persistent : 0) | (isSet(7) ? 0x100 : 0)
        (link.owner, link.group) = (data[1]?.word(at: 0) ?? -1, data[2]?.word(at: 0) ?? -1)
        (link.vnethdr, link.sndbuf) = (10, UInt32(Int32.max))
        return link
    }

    // MARK: Restore

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        if entries.isEmpty { return }
        let paths = try FileTable(try context.images.all("files.img", FileEntry.self))
        for file in entries {
            guard file.hasTunf, let path = paths.path(file.id) else {
                throw CheckpointError("restore", .image("files.img"), "entry \(file.id) of type TUNF lacks its tunf or reg message")
            }
            let entry = file.tunf
            try CheckpointError.about("restore", .object("tun interface '\(entry.netdev)', file id \(entry.id)")) {
                let descriptor = try PathFiles.open(path, flags: nil, context)
                if entry.hasNetdev { try attach(descriptor, entry, context) }
                try FileOwner.restore(path.fown, on: descriptor)
                context.made(file.id, descriptor)
            }
        }
    }

    private static func set(_ file: FileDescriptor, _ name: String, _ request: UInt, _ value: UInt32) throws(SyscallError) {
        var value = value
        try file.ioctl(name, request, &value)
    }

    /// - Parameter index: the number of an interface that is not there; it is made.
    private static func attach(_ file: FileDescriptor, _ name: String, _ link: TunLinkEntry, index: UInt32?) throws {
        if let index { _ = try? set(file, "TUNSETIFINDEX", Request.setIndex, index) }
        let flags = link.flags & settable
        var request = Interface.request(name, [UInt8(truncatingIfNeeded: flags), UInt8(truncatingIfNeeded: flags >> 8)])
        do throws(SyscallError) { try Syscall.call("ioctl(TUNSETIFF)", SYS_ioctl, bytes: &request, at: 2, Int(file.number), Int(Request.setInterface), on: .path(name)) }
        catch {
            guard error.errno == Errno(EBUSY), let index, let other = Interface(index: index) else { throw error }
            throw CheckpointError("restore", .object("tun interface \(name)"), "its number \(index) is taken by \(other.name)", remedy: "remove that interface", errno: error.errno)
        }
        try set(file, "TUNSETSNDBUF", Request.setSendBuffer, link.sndbuf)
        if index == nil { return }
        try set(file, "TUNSETVNETHDRSZ", Request.setHeaderSize, link.vnethdr)
        if link.owner >= 0 { try file.ioctl("TUNSETOWNER", Request.setOwner, Int(link.owner)) }
        if link.group >= 0 { try file.ioctl("TUNSETGROUP", Request.setGroup, Int(link.group)) }
    }

    /// Of a network namespace that is made: the interface, which stays until its files are attached to it. Its properties come with those of all others.
    static func makeInterface(_ device: NetDeviceEntry, _ context: RestoreContext) throws {
        let file = try FileDescriptor.open("/dev/net/tun", O_RDWR)
        try attach(file, device.name, device.tun, index: device.ifindex)
        try file.ioctl("TUNSETPERSIST", Request.persist, 1)
        if device.tun.flags & 2 != 0, device.hasAddress { try Interface(device.name).set(hardwareAddress: little32(1).prefix(2) + Array(device.address)) }  // ARPHRD_ETHER
    }

    private static func attach(_ file: FileDescriptor, _ entry: TunfileEntry, _ context: RestoreContext) throws {
        let interface = Interface(entry.netdev), exists = (try? interface.index()) != nil, made = context.networkDevices[entry.netdev]
        guard let link = entry.hasLink ? entry.link : made?.tun else {
            throw CheckpointError("restore", .object("tun interface '\(entry.netdev)'"), "the images do not describe it")
        }
        try attach(file, entry.netdev, link, index: exists ? nil : entry.ifindex)
        if !exists {
            if link.flags & persistent != 0 { try file.ioctl("TUNSETPERSIST", Request.persist, 1) }
            try configure(interface, entry, context)
        } else if made != nil {
            try set(file, "TUNSETVNETHDRSZ", Request.setHeaderSize, link.vnethdr)
            if link.flags & persistent == 0 { try file.ioctl("TUNSETPERSIST", Request.persist, 0) }
        }
        if entry.detached {
            var request = Interface.request("", [UInt8(truncatingIfNeeded: detached), UInt8(detached >> 8)])
            try Syscall.call("ioctl(TUNSETQUEUE)", SYS_ioctl, bytes: &request, at: 2, Int(file.number), Int(Request.setQueue), on: .path(entry.netdev))
        }
    }

    /// Routes need the interface to be up; the kernel gives it some addresses of its own then.
    private static func configure(_ interface: Interface, _ entry: TunfileEntry, _ context: RestoreContext) throws {
        if entry.hasMtu { try interface.set(mtu: entry.mtu) }
        if entry.link.flags & 2 != 0, entry.hasAddress { try interface.set(hardwareAddress: Array(entry.address)) }
        let index = try interface.index()
        if entry.flags & up != 0 { try interface.set(flags: entry.flags) }
        guard index == entry.ifindex else {
            return context.log.warn("interface \(interface.name) is number \(index) now, not \(entry.ifindex): its addresses and routes are not given back")
        }
        for address in entry.addresses {
            do { try RouteNetlink.add(address: Array(address)) } catch { context.log.warn("interface \(interface.name): an address can't be given back: \(error)") }
        }
        for route in entry.routes {
            do { try RouteNetlink.add(route: Array(route)) } catch { context.log.warn("interface \(interface.name): a route can't be given back: \(error)") }
        }
    }
}
