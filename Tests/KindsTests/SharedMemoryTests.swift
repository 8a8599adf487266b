import CLinux
import Glibc
import ImageMessages
import Images
@testable import Kinds
import Linux
import Testing

@Suite("shared memory") struct SharedMemoryTests {
    @Test("memfds keep content, holes, size, seals, mode, owner, name, position and flags; two opens of one stay one file")
    func memfd() throws {
        let file = try FileDescriptor.memory("a name", flags: 2)
        try Syscall.call("ftruncate", SYS_ftruncate, Int(file.number), 1_000_001)
        try file.write([1, 2, 3], at: 5000)
        try file.write([9], at: 1_000_000)
        try Syscall.call("fchown", SYS_fchown, Int(file.number), 12, 34)
        try Syscall.call("fchmod", SYS_fchmod, Int(file.number), 0o640)
        try file.control(1033, 4 | 2 | 1)
        try file.seek(77)
        let other = try file.reopened(StatusFlags.append | 1)

        let trip = try SavedFiles()
        let ids = [try trip.save(file).id, try trip.save(other).id]
        #expect(try file.seek(0, SEEK_CUR) == 77)
        let context = try trip.restoreAll()
        let after = try ids.map { try context.requireDescriptor(of: $0) }
        let status = try after[0].status()
        #expect(status.size == 1_000_001 && status.uid == 12 && status.gid == 34 && status.mode == S_IFREG | 0o640)
        #expect(try after[1].status().inode == status.inode)
        #expect(try Files.link(after[0].procPath) == "/memfd:a name (deleted)")
        #expect(try after[0].control(1034) == 7)
        #expect(try after[0].seek(0, SEEK_CUR) == 77)
        #expect(try after[0].read(5, at: 4999) == [0, 1, 2, 3, 0])
        #expect(try after[0].read(10, at: 1_000_000) == [9])
        #expect(try after[0].seek(0, 3) == 4096)  // SEEK_DATA: the hole is a hole
        #expect(try after[0].seek(4096, 4) == 8192)
        #expect(try after[1].control(F_GETFL) == other.control(F_GETFL))
    }

    @Test("anonymous shared memory is that again, with its content")
    func anonymous() throws {
        let size = 5 * 4096
        let address = try Syscall.check("mmap") { unsafe Syscall.raw(SYS_mmap, 0, size, 3, 0x21, -1, 0) }
        defer { _ = unsafe Syscall.raw(SYS_munmap, address, size) }
        var bytes: [UInt8] = [1, 2, 3]
        try put(bytes, at: address + 2 * 4096)
        let mapping = try #require(try Mapping.all(of: .current, withFlags: false).first { $0.start == UInt64(address) })
        let trip = try SavedFiles()
        let id = try SharedMemory.memfdID(mapping: mapping, of: .current, context: trip.dump)
        #expect(try SharedMemory.memfdID(mapping: mapping, of: .current, context: trip.dump) == id)
        #expect(trip.dump.statistics.shpagesWritten == 1 && trip.dump.statistics.shpagesScanned == 5)
        let context = try trip.restore()
        #expect(try SharedMemory.isAnonymousShared(id, context))
        let file = try SharedMemory.openForMapping(fileID: id, mode: 2, context)
        #expect(try Files.link(file.procPath) == "/dev/zero (deleted)")
        bytes = try file.read(size, at: 0)
        #expect(bytes.count == size && Array(bytes[8192..<8195]) == [1, 2, 3] && bytes.reduce(0) { $0 + Int($1) } == 6)
    }
    /// Memory of this process by its address.
    private func put(_ bytes: [UInt8], at address: Int) throws {
        let memory = try FileDescriptor.open("/proc/self/mem", O_RDWR)
        try memory.write(bytes, at: address)
    }

    @Test("a memfd that is one hole has a pagemap without pages: CRIU's restore wants one")
    func hole() throws {
        let file = try FileDescriptor.memory("hole")
        try Syscall.call("ftruncate", SYS_ftruncate, Int(file.number), 8192)
        let saved = try SavedFiles()
        let id = try saved.save(file).id
        let context = try saved.restoreAll()
        #expect(context.images.exists("pagemap-shmem-\(try file.status().inode).img"))
        #expect(try context.requireDescriptor(of: id).seek(0, 4) == 0)  // SEEK_HOLE
    }

    @Test("a memfd that is open for writing can still be executed, as before")
    func executable() throws {
        let file = try FileDescriptor.memory("program")
        try FileDescriptor.open("/bin/true", O_RDONLY).copy(to: file, Int(try Files.status("/bin/true").size))
        let saved = try SavedFiles()
        let id = try saved.save(file).id
        let after = try saved.restoreAll().requireDescriptor(of: id)
        for program in [file, after] {
            let pid = clinux_spawn(program.number, 0, 0, 0, -1)
            #expect(pid > 0)
            if pid > 0 { try Syscall.call("wait4", SYS_wait4, Int(pid), 0, 0) }
        }
    }

    @Test("a memfd that may not be written to in the future is sealed after its mappings are made")
    func futureWrite() throws {
        let file = try FileDescriptor.memory("future", flags: 2)
        try file.write([1, 2])
        try file.control(1033, 0x10)
        let trip = try SavedFiles()
        let id = try trip.save(file).id
        let context = try trip.restore()
        let mapped = try SharedMemory.openForMapping(fileID: id, mode: 2, context)
        let address = try Syscall.check("mmap") { unsafe Syscall.raw(SYS_mmap, 0, 4096, 3, 1, Int(mapped.number), 0) }
        defer { _ = unsafe Syscall.raw(SYS_munmap, address, 4096) }
        try Memfd.make([context.files[id]!], context)
        try Memfd.finish([context.files[id]!], context)
        #expect(try context.requireDescriptor(of: id).control(1034) == 0x10)
    }

    @Test("a damaged pagemap is refused: beyond the segment, out of order, pages cut off", arguments: [0, 1, 2])
    func damaged(how: Int) throws {
        let file = try FileDescriptor.memory("damaged")
        try file.write([UInt8](repeating: 1, count: 8192))
        let trip = try SavedFiles()
        let entry = try trip.save(file)
        let shmid = UInt32(truncatingIfNeeded: try file.status().inode)
        var bad = PagemapEntry()
        (bad.vaddr, bad.compatNrPages, bad.nrPages, bad.flags) = ([8192, 0, 8192][how], 0, [1, 1, 1 << 40][how], 4)
        let context = try trip.restore()
        try trip.append(bad, to: "pagemap-shmem-\(shmid).img")
        #expect(throws: CheckpointError.self) { try Memfd.make([context.files[entry.id]!], context) }
    }

    @Test("System V segments come back with id, key, owner, mode and content, also where they still exist")
    func systemV() throws {
        let key = 0x5354_0000 | Int(getpid() & 0xffff)
        let id = try Syscall.call("shmget", SYS_shmget, key, 10_000, 0o3640)
        defer { _ = try? Syscall.call("shmctl", SYS_shmctl, id, 0) }
        let address = try Syscall.call("shmat", SYS_shmat, id, 0, 0)
        try put([4, 5], at: address + 4096)
        let trip = try SavedFiles()
        try SysVSharedMemory.dump(id: UInt64(id), trip.dump)
        try SysVSharedMemory.finishDump(trip.dump)
        let entry = try #require(trip.dump.hostSharedMemory.first)
        #expect(entry.desc.key == UInt32(key) && entry.desc.id == UInt32(id) && entry.size == 10_000 && entry.desc.mode & 0o777 == 0o640)
        try Syscall.call("shmdt", SYS_shmdt, address)
        for gone in [true, false] {
            if gone { try Syscall.call("shmctl", SYS_shmctl, id, 0) }
            let context = try trip.restore()
            try SysVSharedMemory.makeAll([entry], context)
            #expect(try Syscall.call("shmget", SYS_shmget, key, 0, 0) == id)
            let again = try Syscall.call("shmat", SYS_shmat, id, 0, 0)
            let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
            try Syscall.call("write", SYS_write, Int(writing.number), again + 4095, 4)
            #expect(try reading.read(4) == [0, 4, 5, 0])
            // Written to between: the images' content wins.
            try put([7], at: again)
            try Syscall.call("shmdt", SYS_shmdt, again)
        }
    }
}
