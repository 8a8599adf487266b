import FoundationEssentials
import ImageMessages
import Linux

// Open files and descriptor tables (format 11 and 12).
extension ImageSet {
    func checkDescriptors(_ findings: inout Findings) {
        for (table, entries) in descriptors.sorted(by: { $0.key < $1.key }) {
            var numbers = Set<UInt32>(minimumCapacity: entries.count)
            let image = ImageFile<FdinfoEntry>.descriptors.name(table)
            for (index, entry) in entries.enumerated() {
                let place = Place(file: image, entry: index)
                place.expect(entry.fd < Limits.descriptor, "fd", "\(entry.fd) is higher than a descriptor can be", &findings)
                place.expect(numbers.insert(entry.fd).inserted, "fd", "\(entry.fd) is there twice", &findings)
                place.expect(entry.flags & ~1 == 0, "flags", "\(hex(entry.flags)) has unknown bits", &findings)
                guard let file = files[entry.id] else {
                    place.expect(false, "id", "files.img has no file with id \(entry.id)", &findings)
                    continue
                }
                place.expect(entry.type == file.type, "type", "\(entry.type), but file \(entry.id) is \(file.type)", &findings)
            }
        }
    }

    func checkFiles(_ findings: inout Findings) {
        let memfdInodes = Set(memfds.map(\.inodeID)), ttyInfos = Set(ttys.map(\.id)), places = files.places
        @Sendable func check(_ part: ArraySlice<(place: Int, entry: FileEntry)>, _ findings: inout Findings) {
            for (index, entry) in part { checkFile(index, entry, memfdInodes, ttyInfos, &findings) }
        }
        // Sockets, of which some have images of their own, take longest, and stand together.
        let parts = stride(from: 0, to: places.count, by: Self.atOnce).map { places[$0..<min($0 + Self.atOnce, places.count)] }
        if parts.count < 4 { return parts.forEach { check($0, &findings) } }
        for found in Workers.map(parts, { part in
            var found = Findings()
            check(part, &found)
            return found
        }) { found.errors.forEach { findings.add($0) } }
    }
    /// Files that one thread checks.
    private static let atOnce = 500

    private func checkFile(_ index: Int, _ entry: FileEntry, _ memfdInodes: Set<UInt64>, _ ttyInfos: Set<UInt32>, _ findings: inout Findings) {
        let place = Place(file: "files.img", entry: index)
        guard let (name, id) = entry.member else {
            place.expect(false, "type", "the part that describes a \(entry.type) is missing", &findings)
            return
        }
        place.expect(id == entry.id, "\(name).id", "it is \(id), the entry's is \(entry.id)", &findings)
        if let owner = entry.owner {
            let place = place.inside("\(name).fown")
            place.signal(owner.signum, orNone: true, "signum", &findings)
            place.process(owner.pid, orNone: true, "pid", &findings)
            place.expect(owner.pidType <= 3, "pid_type", "\(owner.pidType) is unknown", &findings)
        }
        let inside = place.inside(name)
        switch entry.type {
        case .reg: checkPath(entry.reg, inside, &findings)
        case .fifo:
            let path = entry.fifo.hasRegfID ? entry.fifo.regfID : entry.id
            inside.expect(files.path(path) != nil || !entry.fifo.hasRegfID, "regf_id", "files.img has no path with id \(path)", &findings)
        case .tty:
            inside.expect(ttyInfos.contains(entry.tty.ttyInfoID), "tty_info_id", "tty-info.img has no terminal \(entry.tty.ttyInfoID)", &findings)
            if entry.tty.hasRegfID { inside.expect(files.path(entry.tty.regfID) != nil, "regf_id", "files.img has no path with id \(entry.tty.regfID)", &findings) }
        case .tunf: inside.text(entry.tunf.netdev, upTo: 15, "netdev", &findings)
        case .memfd:
            inside.expect(memfdInodes.contains(UInt64(entry.memfd.inodeID)), "inode_id", "memfd.img has no inode \(entry.memfd.inodeID)", &findings)
        case .unixsk: checkUnix(entry.usk, inside, &findings)
        case .inetsk: checkInet(entry.isk, inside, &findings)
        case .timerfd:
            inside.expect(entry.tfd.vnsec < 1_000_000_000 && entry.tfd.insec < 1_000_000_000, "vnsec", "more than a billion nanoseconds in a second", &findings)
            inside.expect(entry.tfd.vsec <= UInt64(Int64.max) && entry.tfd.isec <= UInt64(Int64.max), "vsec", "its seconds are out of range", &findings)
        case .eventpoll:
            for (index, target) in entry.epfd.tfd.enumerated() {
                inside.expect(target.tfd < Limits.descriptor, "tfd[\(index)].tfd", "\(target.tfd) is higher than a descriptor can be", &findings)
            }
        case .inotify:
            for (index, watch) in entry.ify.wd.enumerated() { checkHandle(watch.fHandle, inside.inside("wd[\(index)].f_handle"), &findings) }
        case .fanotify:
            for (index, mark) in entry.ffy.mark.enumerated() {
                inside.expect(mark.type == .inode ? mark.hasIe : mark.hasMe, "mark[\(index)]", "what is marked is missing", &findings)
                if mark.hasIe { checkHandle(mark.ie.fHandle, inside.inside("mark[\(index)].ie.f_handle"), &findings) }
            }
        case .pidfd: inside.expect(entry.pidfd.nspid == -1 || (1...Int32(Limits.pid)).contains(entry.pidfd.nspid), "nspid", "\(entry.pidfd.nspid) is no process id", &findings)
        case .packetsk:
            for (index, member) in entry.psk.mclist.enumerated() { inside.expect(member.addr.count <= 32, "mclist[\(index)].addr", "it has \(member.addr.count) bytes, 32 are the most", &findings) }
        default: break
        }
    }

    private func checkPath(_ file: RegFileEntry, _ place: Place, _ findings: inout Findings) {
        place.text(file.name, upTo: Limits.path, "name", &findings)
        place.expect(file.ext || file.name.hasPrefix("/"), "name", "\"\(file.name)\" is not an absolute path", &findings)
    }

    /// The handle is 16 words; `bytes` of it count (MAX_HANDLE_SZ, open_by_handle_at(2)).
    private func checkHandle(_ handle: FhEntry, _ place: Place, _ findings: inout Findings) {
        place.expect(handle.bytes <= 128, "bytes", "\(handle.bytes) are more than a handle has", &findings)
        place.expect(handle.handle.isEmpty || UInt64(handle.handle.count) * 8 >= UInt64(handle.bytes), "handle", "it is shorter than its \(handle.bytes) bytes", &findings)
        place.text(handle.path, upTo: Limits.path, "path", &findings)
    }

    private func checkUnix(_ socket: UnixSkEntry, _ place: Place, _ findings: inout Findings) {
        place.expect([1, 2, 5].contains(socket.type), "type", "\(socket.type) is none of stream, datagram, seqpacket", &findings)
        place.expect([1, 7, 10].contains(socket.state), "state", "\(socket.state) is none of established, closed, listening", &findings)
        place.expect(socket.name.count <= Limits.unixName, "name", "it has \(socket.name.count) bytes, \(Limits.unixName) are the most", &findings)
        place.text(socket.nameDir, upTo: Limits.path, "name_dir", &findings)
        checkOptions(socket.opts, place.inside("opts"), &findings)
    }

    private func checkInet(_ socket: InetSkEntry, _ place: Place, _ findings: inout Findings) {
        let words = socket.family == 2 ? 1 : 4
        place.expect(socket.family == 2 || socket.family == 10, "family", "\(socket.family) is neither IPv4 nor IPv6", &findings)
        place.expect(socket.srcAddr.count == words, "src_addr", "it has \(socket.srcAddr.count) words, the family \(words)", &findings)
        place.expect(socket.dstAddr.count == words, "dst_addr", "it has \(socket.dstAddr.count) words, the family \(words)", &findings)
        place.expect((1...12).contains(socket.state), "state", "\(socket.state) is no state of a socket", &findings)
        place.expect(socket.srcPort <= 65535, "src_port", "\(socket.srcPort) is no port", &findings)
        place.expect(socket.dstPort <= 65535, "dst_port", "\(socket.dstPort) is no port", &findings)
        place.expect(socket.ipOpts.raw.icmpvFilter.count <= 8, "ip_opts.raw.icmpv_filter", "it has \(socket.ipOpts.raw.icmpvFilter.count) words, 8 are the most", &findings)
        place.text(socket.ifname, upTo: 15, "ifname", &findings)
        checkOptions(socket.opts, place.inside("opts"), &findings)
        // Connected TCP has a stream image, unless the dump closed it (format 12.4).
        let isConnected = socket.proto == 6 && socket.dstPort != 0 && socket.state != 7 && socket.state != 10
        guard isConnected, !inventory.tcpClose else { return }
        findings.note { () throws(ImageError) in
            let stream = try directory.tcpStream(inode: socket.ino)
            let place = Place(file: ImageFile<TcpStreamEntry>.tcpStream.name(socket.ino), entry: 0)
            var found = Findings()
            place.expect(stream.entry.unsqLen <= stream.entry.outqLen, "unsq_len", "\(stream.entry.unsqLen) bytes were not sent of \(stream.entry.outqLen)", &found)
            place.expect(stream.entry.sndWscale <= 14 && stream.entry.rcvWscale <= 14, "snd_wscale", "a window scale is above 14 (RFC 7323)", &found)
            if let first = found.errors.first { throw first }
        }
    }

    private func checkOptions(_ options: SkOptsEntry, _ place: Place, _ findings: inout Findings) {
        place.expect(options.soFilter.count <= Limits.filterBytes / 8, "so_filter", "\(options.soFilter.count) instructions are too many", &findings)
        place.text(options.soBoundDev, upTo: 15, "so_bound_dev", &findings)
    }
}
