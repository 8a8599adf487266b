import Foundation
import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("files without a name") struct GhostTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    private func open(_ name: String, _ flags: Int32 = O_RDWR) throws -> FileDescriptor { try FileDescriptor.open(scratch.path + "/" + name, flags) }

    @Test("content, owner, mode, times, position and flags of a deleted file come back, under its old name")
    func deleted() throws {
        let path = try scratch.file("f", "ghost bytes", mode: 0o4751)
        let before = try FileDescriptor.open(path, O_RDWR | O_APPEND)
        _ = fchown(before.number, 12, 34)
        _ = unsafe chmod(path, 0o4751)
        var times = [timespec(tv_sec: 1000, tv_nsec: 5000), timespec(tv_sec: 2000, tv_nsec: 7000)]
        unsafe futimens(before.number, &times)
        try before.seek(3)
        unsafe unlink(path)
        let trip = try DumpAndRestore()
        let entry = try trip.save(before)
        #expect(scratch.names.isEmpty)
        let after = try trip.restoreAll().requireDescriptor(of: entry.id)
        #expect(scratch.names.isEmpty)
        let (old, new) = (try before.status(), try after.status())
        #expect((new.uid, new.gid, new.mode, new.links, new.size) == (12, 34, old.mode, 0, 11))
        #expect(new.modified == (2000, 7000))
        #expect(new.accessed == (1000, 5000))
        #expect(try after.seek(0, SEEK_CUR) == 3)
        #expect(try after.read(20, at: 0) == Array("ghost bytes".utf8))
        #expect(try after.control(F_GETFL) == before.control(F_GETFL))
        #expect(try Files.link(after.procPath) == path + " (deleted)")
    }

    @Test("open files of one inode stay one inode, also under two names and opened without write permission")
    func shared() throws {
        let path = try scratch.file("a", "x")
        unsafe link(path, scratch.path + "/b")
        let before = [try open("a"), try open("a", O_RDONLY), try open("b", O_WRONLY | O_NOFOLLOW)]
        unsafe unlink(path)
        unsafe unlink(scratch.path + "/b")
        let trip = try DumpAndRestore()
        let entries = try before.map { try trip.save($0) }
        let context = try trip.restoreAll()
        let after = try entries.map { try context.requireDescriptor(of: $0.id) }
        #expect(try Set(after.map { try $0.status().inode }).count == 1)
        #expect(try after.map { try $0.control(F_GETFL) } == before.map { try $0.control(F_GETFL) })
        #expect(try after.map { try Files.link($0.procPath) } == before.map { try Files.link($0.procPath) })
        try after[2].write([65])
        #expect(try after[1].read(5) == [65])
        #expect(scratch.names.isEmpty)
    }

    @Test("a file that took the name in the meantime is left alone, and files deleted under one name stay apart")
    func nameTaken() throws {
        var before = [FileDescriptor]()
        for text in ["one", "two"] {
            let path = try scratch.file("f", text)
            before.append(try open("f"))
            unsafe unlink(path)
        }
        _ = try scratch.file("f", "present")
        let trip = try DumpAndRestore()
        let entries = try before.map { try trip.save($0) }
        let context = try trip.restoreAll()
        #expect(try entries.map { try context.requireDescriptor(of: $0.id).readAll() } == [Array("one".utf8), Array("two".utf8)])
        #expect(scratch.names == ["f"])
        #expect(try Files.text(scratch.path + "/f") == "present")
    }

    @Test("holes stay holes", arguments: [0, 1 << 20, 1 << 33])
    func holes(start: Int) throws {
        let path = try scratch.file("f")
        let before = try open("f")
        try before.write([UInt8](repeating: 7, count: 4096), at: start)
        ftruncate(before.number, start + (1 << 20) + 5)
        unsafe unlink(path)
        let trip = try DumpAndRestore()
        let entry = try trip.save(before)
        let after = try trip.restoreAll().requireDescriptor(of: entry.id)
        #expect(try after.status().size == start + (1 << 20) + 5)
        #expect(try after.read(4096, at: start) == [UInt8](repeating: 7, count: 4096))
        #expect(try after.status().blocks <= before.status().blocks + 8)
        #expect(try Files.status(trip.images.path + "/ghost-file-1.img").size < 5000)
    }

    @Test("many holes are found by either means, also in room that was taken ahead", arguments: [true, false])
    func means(fiemap: Bool) throws {
        let path = try scratch.file("f")
        let before = try open("f"), islands = 600, distance = 1 << 16
        try #require(posix_fallocate(before.number, 0, 1 << 20) == 0)
        try before.write([UInt8](repeating: 9, count: 5000), at: 300_000)
        for island in 0..<islands { try before.write([UInt8(truncatingIfNeeded: island)], at: (1 << 21) + island * distance) }
        ftruncate(before.number, 1 << 27)
        unsafe unlink(path)
        let trip = try DumpAndRestore { ($0.ghostLimit, $0.ghostFiemap) = (1 << 30, fiemap) }
        let entry = try trip.save(before)
        let after = try trip.restoreAll().requireDescriptor(of: entry.id)
        #expect(try after.status().size == 1 << 27)
        #expect(try after.status().blocks <= before.status().blocks)
        #expect(try Files.status(trip.images.path + "/ghost-file-1.img").size < islands * 4200 + 30_000)
        #expect(try after.read(1 << 21, at: 0) == before.read(1 << 21, at: 0))
        for island in 0..<islands { #expect(try after.read(3, at: (1 << 21) + island * distance) == [UInt8(truncatingIfNeeded: island), 0, 0]) }
    }

    @Test("more than the limit is refused, and the error names the option")
    func limit() throws {
        let path = try scratch.file("f", String(repeating: "x", count: 100_000))
        let before = try open("f")
        fsync(before.number)  // so that the blocks are counted
        unsafe unlink(path)
        let trip = try DumpAndRestore { $0.ghostLimit = 50_000 }
        let error = #expect(throws: CheckpointError.self) { try trip.save(before) }
        #expect(error?.remedy?.contains("--ghost-limit") == true)
    }

    @Test("deleted directories, devices and links, also below deleted directories")
    func others() throws {
        unsafe mkdir(scratch.path + "/d", 0o755)
        unsafe mkdir(scratch.path + "/d/e", 0o1751)
        let directory = try open("d/e", O_RDONLY | O_DIRECTORY)
        unsafe mknod(scratch.path + "/d/null", S_IFCHR | 0o666, 0x103)
        let device = try open("d/null")
        unsafe symlink("target", scratch.path + "/d/link")
        let place = try open("d/link", 0o10000000 | O_NOFOLLOW)
        let file = try scratch.file("d/file", "text")
        let regular = try open("d/file")
        unsafe rmdir(scratch.path + "/d/e")
        for path in ["/d/null", "/d/link", "/d/file"] { unsafe unlink(scratch.path + path) }
        unsafe rmdir(scratch.path + "/d")
        let before = [directory, device, place, regular]
        let trip = try DumpAndRestore()
        let entries = try before.map { try trip.save($0) }
        let context = try trip.restoreAll()
        let after = try entries.map { try context.requireDescriptor(of: $0.id) }
        #expect(try after.map { try $0.status().mode } == before.map { try $0.status().mode })
        #expect(try after[1].status().rdev == device.status().rdev)
        #expect(try Files.link("", at: after[2].number) == "target")
        #expect(try after[3].readAll() == Array("text".utf8))
        #expect(try after.map { try Files.link($0.procPath) } == before.map { try Files.link($0.procPath) })
        #expect(try after.map { try $0.control(F_GETFL) } == before.map { try $0.control(F_GETFL) })
        #expect(file.hasSuffix("/d/file") && scratch.names.isEmpty)
    }

    @Test("a file made with O_TMPFILE")
    func temporary() throws {
        let before = try FileDescriptor.open(scratch.path, 0o20200000 | O_RDWR)
        try before.write(Array("temporary".utf8))
        let trip = try DumpAndRestore()
        let entry = try trip.save(before)
        let after = try trip.restoreAll().requireDescriptor(of: entry.id)
        #expect(try after.read(20, at: 0) == Array("temporary".utf8))
        #expect(try after.seek(0, SEEK_CUR) == 9)
        #expect(scratch.names.isEmpty)
    }

    @Test("a chunk outside the file is refused")
    func badChunk() throws {
        let path = try scratch.file("f")
        let before = try open("f")
        ftruncate(before.number, 20_000)
        unsafe unlink(path)
        let trip = try DumpAndRestore()
        try trip.save(before)
        var chunk = ghost_chunk_entry()
        (chunk.len, chunk.off) = (8, UInt64.max - 3)
        try trip.dump.images.append("ghost-file-1.img", chunk, payload: [UInt8](repeating: 0, count: 8))
        #expect(throws: CheckpointError.self) { try trip.restoreAll() }
        #expect(scratch.names.isEmpty)
    }
}

@Suite("files that lost one of their names") struct LinkRemapTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    private func unlinked() throws -> [FileDescriptor] {
        let path = try scratch.file("f", "linked")
        unsafe link(path, scratch.path + "/other")
        let opened = [try FileDescriptor.open(path, O_RDWR), try FileDescriptor.open(path, O_RDONLY)]
        unsafe unlink(path)
        return opened
    }

    @Test("are refused without --link-remap")
    func refused() throws {
        let before = try unlinked()
        let trip = try DumpAndRestore()
        let error = #expect(throws: CheckpointError.self) { try trip.save(before[0]) }
        #expect(error?.remedy?.contains("--link-remap") == true)
        #expect(scratch.names == ["other"])
    }

    @Test("get a temporary name, which is gone after the restore, and stay the same inode")
    func restored() throws {
        let before = try unlinked()
        let trip = try DumpAndRestore { $0.linkRemap = true }
        let entries = try before.map { try trip.save($0) }
        #expect(scratch.names == ["link_remap.2", "other"])
        let context = try trip.restoreAll()
        let after = try entries.map { try context.requireDescriptor(of: $0.id) }
        #expect(try after.map { try $0.status() } == before.map { try $0.status() })
        #expect(try after.map { try Files.link($0.procPath) } == before.map { try Files.link($0.procPath) })
        #expect(scratch.names == ["other"])
    }

    @Test("keep their temporary name when the restore fails")
    func failed() throws {
        let before = try unlinked()
        let trip = try DumpAndRestore { $0.linkRemap = true }
        try trip.save(before[0])
        let size = try before[0].status().size
        ftruncate(before[0].number, 100)
        #expect(throws: CheckpointError.self) { try trip.restoreAll() }
        #expect(scratch.names == ["link_remap.2", "other"])
        ftruncate(before[0].number, Int(size))
        _ = try trip.restoreAll()
        #expect(scratch.names == ["other"])
    }

    @Test("lose it when the dump leaves the tree running")
    func undone() throws {
        let before = try unlinked()
        let trip = try DumpAndRestore { $0.linkRemap = true }
        for file in before { try trip.save(file) }
        for undo in trip.dump.undo.reversed() { undo() }
        #expect(scratch.names == ["other"])
        let error = #expect(throws: CheckpointError.self) { try trip.restoreAll() }
        #expect(error?.description.contains("is gone") == true)
    }
}
