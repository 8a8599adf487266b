import Foundation
import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("fifos") struct FifoTests {
    let scratch: Scratch
    let path: String
    init() throws {
        scratch = try Scratch()
        path = scratch.path + "/fifo"
        unsafe mkfifo(path, 0o640)
    }

    private func roundTrip(_ files: [FileDescriptor], deleted: Bool = false) throws -> [FileDescriptor] {
        var files = files
        if deleted { unsafe unlink(path) }
        let trip = try DumpAndRestore()
        let entries = try files.map { try trip.save($0) }
        let flags = try files.map { try $0.control(F_GETFL) }, size = try files[0].control(PipeContent.getSize)
        files = []  // a fifo lives as long as somebody has it open
        return try Self.restored(trip, entries, flags, size)
    }
    private static func restored(_ trip: DumpAndRestore, _ entries: [FileEntry], _ flags: [Int], _ size: Int) throws -> [FileDescriptor] {
        let context = try trip.restoreAll()
        let after = try entries.map { try context.requireDescriptor(of: $0.id) }
        #expect(try after.map { try $0.control(F_GETFL) } == flags)
        #expect(try after[0].control(PipeContent.getSize) == size)
        #expect(entries.allSatisfy { $0.fifo.regfID != $0.id && context.files[$0.fifo.regfID]?.reg.mode == S_IFIFO | 0o640 })
        return after
    }

    @Test("both ends, content and size come back, and the dump takes nothing", arguments: [false, true])
    func bothEnds(deleted: Bool) throws {
        let opened: [FileDescriptor] = try {
            let reading = try FileDescriptor.open(path, O_RDONLY | O_NONBLOCK)
            let writing = try FileDescriptor.open(path, O_WRONLY)
            try writing.control(PipeContent.setSize, 8192)
            try writing.write(Array("in the fifo".utf8))
            return [reading, writing]
        }()
        let trip = try roundTrip(opened, deleted: deleted)
        // Where the old one is still open (here it is), a restore keeps what stands in it rather than doubling it.
        #expect(try trip[0].read(100) == Array("in the fifo".utf8))
        #expect(throws: SyscallError.self) { try trip[0].read(1) }
        try trip[1].write([1])
        #expect(try trip[0].read(100) == [1])
    }

    @Test("only a reader, without waiting for a writer")
    func reader() throws {
        let after = try roundTrip([try FileDescriptor.open(path, O_RDONLY | O_NONBLOCK)])
        var asked = pollfd(fd: after[0].number, events: Int16(POLLIN), revents: 0)
        #expect(unsafe poll(&asked, 1, 0) == 0)
    }

    @Test("only a writer, without waiting for a reader")
    func writer() throws {
        let reading = try FileDescriptor.open(path, O_RDONLY | O_NONBLOCK)
        let writing = try FileDescriptor.open(path, O_WRONLY)
        withExtendedLifetime(reading) {}
        _ = try roundTrip([writing])
    }

    @Test("a place (O_PATH) on a fifo is no fifo")
    func place() throws {
        let trip = try DumpAndRestore()
        #expect(try trip.save(try FileDescriptor.open(path, 0o10000000)).type == .reg)
    }
}
