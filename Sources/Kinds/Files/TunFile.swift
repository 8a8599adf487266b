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

    private static func attach(_ file: FileDescriptor, _ entry: TunfileEntry, _ context: RestoreContext) throws {
        let interface = Interface(entry.netdev), exists = (try? interface.index()) != nil
        guard entry.hasLink else {
            throw CheckpointError("restore", .object("tun interface '\(entry.netdev)'"), "the images do not describe it: it belongs to a network namespace of the tree, which is not supported yet")
        }
        func set(_ name: String, _ request: UInt, _ value: UInt32) throws(SyscallError) {
            var value = value
            try file.ioctl(name, request, &value)
        }
        if !exists { _ = try? set("TUNSETIFINDEX", Request.setIndex, entry.ifindex) }
        let flags = entry.link.flags
        var request = Interface.request(entry.netdev, [UInt8(truncatingIfNeeded: flags & settable), UInt8(truncatingIfNeeded: (flags & settable) >> 8)])
        do throws(SyscallError) { try Syscall.call("ioctl(TUNSETIFF)", SYS_ioctl, bytes: &request, at: 2, Int(file.number), Int(Request.setInterface), on: .path(entry.netdev)) }
        catch {
            guard error.errno == Errno(EBUSY), !exists, let other = Interface(index: entry.ifindex) else { throw error }
            throw CheckpointError("restore", .object("tun interface \(entry.netdev)"), "its number \(entry.ifindex) is taken by \(other.name)", remedy: "remove that interface", errno: error.errno)
        }
        try set("TUNSETSNDBUF", Request.setSendBuffer, entry.link.sndbuf)
        if !exists {
            try set("TUNSETVNETHDRSZ", Request.setHeaderSize, entry.link.vnethdr)
            if entry.link.owner >= 0 { try file.ioctl("TUNSETOWNER", Request.setOwner, Int(entry.link.owner)) }
            if entry.link.group >= 0 { try file.ioctl("TUNSETGROUP", Request.setGroup, Int(entry.link.group)) }
            if entry.link.flags & persistent != 0 { try file.ioctl("TUNSETPERSIST", Request.persist, 1) }
            try configure(interface, entry, context)
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
