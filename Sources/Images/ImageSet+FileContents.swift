import ImageMessages

// What lies beside files.img: ghosts and other remaps, memfds, queued data (format 11.4 to 11.6, 12.3).
extension ImageSet {
    func checkFileContents(_ findings: inout Findings) {
        checkRemaps(&findings)
        checkMemfds(&findings)
        checkQueuedData(&findings)
    }

    private func checkRemaps(_ findings: inout Findings) {
        var ghosts = Set<UInt32>()
        for (index, remap) in remaps.enumerated() {
            let place = Place(file: "remap-fpath.img", entry: index)
            place.expect(files.path(remap.origID) != nil, "orig_id", "files.img has no path with id \(remap.origID)", &findings)
            // Old images have no type; the top bit of the id says "ghost".
            let isGhost = remap.hasRemapType ? remap.remapType == .ghost : remap.remapID >> 31 == 1
            let id = remap.hasRemapType ? remap.remapID : remap.remapID & 0x7fff_ffff
            if isGhost {
                if ghosts.insert(id).inserted { findings.note { () throws(ImageError) in try checkGhost(id) } }
            } else if remap.remapType == .procfs {
                place.process(id, "remap_id", &findings)
            } else {
                place.expect(files.path(id) != nil, "remap_id", "files.img has no path with id \(id)", &findings)
            }
        }
    }

    private func checkGhost(_ id: UInt32) throws(ImageError) {
        let ghost = try directory.ghost(id)
        let place = Place(file: ImageFile<GhostFileEntry>.ghostFile.name(id), entry: 0)
        var found = Findings()
        place.expect(ghost.entry.hasAtim == ghost.entry.hasMtim, "mtim", "one of the two times is missing", &found)
        place.expect(ghost.entry.size <= UInt64(Int64.max), "size", "\(ghost.entry.size) bytes are more than a file can have", &found)
        place.text(ghost.entry.symlnkTarget, upTo: Limits.path, "symlnk_target", &found)
        if let first = found.errors.first { throw first }
    }

    private func checkMemfds(_ findings: inout Findings) {
        var inodes = Set<UInt64>()
        for (index, memfd) in memfds.enumerated() {
            let place = Place(file: "memfd.img", entry: index)
            place.expect(inodes.insert(memfd.inodeID).inserted, "inode_id", "\(memfd.inodeID) is there twice", &findings)
            place.text(memfd.name, upTo: 255, "name", &findings)
            place.expect(memfd.size <= UInt64(Int64.max), "size", "\(memfd.size) bytes are more than a file can have", &findings)
            checkSegment(memfd.shmid, size: memfd.size, &findings)
        }
    }

    /// A segment without pages has no pagemap.
    func checkSegment(_ id: UInt32, size: UInt64, _ findings: inout Findings) {
        guard directory.exists(.sharedPagemap, id) else { return }
        findings.note { () throws(ImageError) in
            let extents = try pages.extents(of: .sharedPagemap, id)
            guard let last = extents.last else { return }
            let end = last.address + last.pages * pages.pageSize  // no overflow: checked when the pagemap was read
            let (rounded, overflows) = size.addingReportingOverflow(pages.pageSize - 1)
            guard overflows || end <= rounded / pages.pageSize * pages.pageSize else {
                throw ImageError(ImageFile<PagemapEntry>.sharedPagemap.name(id), field: "nr_pages", "it has pages up to \(end), the segment has \(size) bytes")
            }
        }
    }

    private func checkQueuedData(_ findings: inout Findings) {
        for (file, list) in [("pipes-data.img", pipeData), ("fifo-data.img", fifoData)] {
            var pipes = Set<UInt32>()
            for (index, data) in list.enumerated() {
                let place = Place(file: file, entry: index)
                place.expect(pipes.insert(data.entry.pipeID).inserted, "pipe_id", "\(data.entry.pipeID) is there twice", &findings)
                // the top bit tells bytes written without O_DIRECT, which are no packet, from those with it
                let packets = data.entry.packets.reduce(into: UInt64(0)) { $0 += UInt64($1 & 0x7fff_ffff) }
                place.expect(data.entry.packets.isEmpty || packets == UInt64(data.entry.bytes), "packets", "they have \(packets) bytes, the pipe \(data.entry.bytes)", &findings)
            }
        }
        for (index, packet) in socketQueues.enumerated() {
            let place = Place(file: "sk-queues.img", entry: index)
            let type = files[packet.entry.idFor]?.type
            place.expect(type == .unixsk || type == .inetsk, "id_for", "files.img has no socket with id \(packet.entry.idFor)", &findings)
            for message in packet.entry.scm {
                place.expect(message.type == 1, "scm.type", "\(message.type) is not SCM_RIGHTS", &findings)
                place.expect(message.rights.count <= 253, "scm.rights", "\(message.rights.count) descriptors are more than a message takes (SCM_MAX_FD)", &findings)
                for id in message.rights { place.expect(files[id] != nil, "scm.rights", "files.img has no file with id \(id)", &findings) }
            }
        }
    }

    func checkTerminals(_ findings: inout Findings) {
        var ids = Set<UInt32>()
        for (index, terminal) in ttys.enumerated() {
            let place = Place(file: "tty-info.img", entry: index)
            place.expect(ids.insert(terminal.id).inserted, "id", "\(terminal.id) is there twice", &findings)
            place.process(terminal.sid, orNone: true, "sid", &findings)
            place.process(terminal.pgrp, orNone: true, "pgrp", &findings)
            place.expect(terminal.type != .pty || terminal.hasPty, "pty", "it is missing", &findings)
            for (termios, field) in [(terminal.termios, "termios"), (terminal.termiosLocked, "termios_locked")] {
                place.expect(termios.cCc.count <= 19, "\(field).c_cc", "it has \(termios.cCc.count) words, 19 are the most", &findings)
            }
            let size = terminal.winsize
            place.expect(max(size.wsRow, size.wsCol, size.wsXpixel, size.wsYpixel) <= 65535, "winsize", "a number is above 65535", &findings)
        }
        for (index, data) in ttyData.enumerated() {
            Place(file: "tty-data.img", entry: index).expect(ids.contains(data.ttyID), "tty_id", "tty-info.img has no terminal \(data.ttyID)", &findings)
        }
    }

    func checkLocks(_ findings: inout Findings) {
        var numbers: [UInt32: Set<UInt32>] = [:]
        for (table, entries) in descriptors { numbers[table] = Set(entries.map(\.fd)) }
        for (index, lock) in fileLocks.enumerated() {
            let place = Place(file: "filelocks.img", entry: index)
            place.expect([1, 2, 4, 8].contains(lock.flag), "flag", "\(lock.flag) is none of POSIX, flock, OFD, lease", &findings)
            place.expect(lock.start >= 0 && lock.len >= 0, "start", "it is before the file", &findings)
            guard let task = self[UInt32(bitPattern: lock.pid)] else {
                place.expect(false, "pid", "pstree.img has no process \(lock.pid)", &findings)
                continue
            }
            let table = task.ids.flatMap { numbers[$0.filesID] } ?? []
            place.expect(table.contains(UInt32(bitPattern: lock.fd)), "fd", "process \(lock.pid) has no descriptor \(lock.fd)", &findings)
        }
    }
}
