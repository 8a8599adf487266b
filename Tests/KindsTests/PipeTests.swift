import CLinux
import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("pipes") struct PipeTests {
    private func dumpAndRestore(_ ends: [FileDescriptor], _ adjust: (inout RestoreSettings) -> Void = { _ in }) throws -> [FileDescriptor] {
        let trip = try SavedFiles()
        let ids = try ends.map { try trip.save($0).id }
        let context = try trip.restoreAll(adjust)
        return try ids.map { try context.requireDescriptor(of: $0) }
    }
    private func flags(_ descriptor: FileDescriptor) throws -> UInt32 { UInt32(try descriptor.control(F_GETFL)) }

    @Test("keep what waits in them, and the original keeps it, too", arguments: [0, 1, 4096, 5000, 65536])
    func content(count: Int) throws {
        let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
        if count > 0 { try writing.write(bytes) }
        let after = try dumpAndRestore([reading, writing])
        #expect(try after[0].read(1 << 17, orNothing: true) == bytes)
        #expect(try reading.read(1 << 17, orNothing: true) == bytes)
        try after[1].write([7])
        #expect(try after[0].read(10) == [7])
    }

    @Test("keep packets apart, between streams, too")
    func packets() throws {
        let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        try writing.write([UInt8](repeating: 1, count: 8192))  // whole pages: a packet would join a page with room
        try writing.setStatusFlags(StatusFlags.nonblocking | StatusFlags.direct)
        try writing.write([2, 2, 2])
        try writing.write([3])
        try writing.write([UInt8](repeating: 4, count: 4096))
        try writing.setStatusFlags(StatusFlags.nonblocking)
        try writing.write([5, 5])
        let content = try PipeContent(peeking: reading, direct: false)
        #expect(content.segments == [
            .init(length: 8192, isPacket: false), .init(length: 3, isPacket: true), .init(length: 1, isPacket: true),
            .init(length: 4096, isPacket: true), .init(length: 2, isPacket: false),
        ])
        for reading in [try dumpAndRestore([reading, writing])[0], reading] {
            #expect(try reading.read(8193).count == 8193)  // a part of the packet: the rest goes
            #expect(try reading.read(100) == [3])
            #expect(try reading.read(8192).count == 4096)
            #expect(try reading.read(1) == [5])
            #expect(try reading.read(100) == [5])
        }
    }

    @Test("keep their size, their flags, and further open files of an end")
    func flagsAndSize() throws {
        let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        try writing.control(PipeContent.setSize, 1 << 18)
        try writing.setStatusFlags(StatusFlags.direct)
        let again = try reading.reopened(2), third = try reading.reopened(1)
        let ends = [reading, writing, again, third]
        let after = try dumpAndRestore(ends)
        for (before, after) in zip(ends, after) {
            #expect(try flags(after) == flags(before))
            #expect(try after.control(PipeContent.getSize) == 1 << 18)
        }
        #expect(Set(try after.map { try $0.status().inode }).count == 1)
    }

    @Test("keep their owner, who may open them again")
    func owner() throws {
        let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        try Syscall.call("fchown", SYS_fchown, Int(reading.number), 1234, 5678)
        try Syscall.call("fchmod", SYS_fchmod, Int(reading.number), 0o620)
        let after = try dumpAndRestore([writing])[0].status()
        #expect(after.uid == 1234 && after.gid == 5678 && after.mode & 0o7777 == 0o620)
    }

    @Test("stay closed at the end that was closed")
    func oneEnd() throws {
        var (reading, writing): (FileDescriptor?, FileDescriptor?) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        try writing!.write([1, 2])
        writing = nil
        let left = try dumpAndRestore([reading!])[0]
        #expect(try left.read(10) == [1, 2])
        #expect(try left.read(10) == [])
        (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        try writing!.control(PipeContent.setSize, 1 << 17)
        reading = nil
        let writer = try dumpAndRestore([writing!])[0]
        signal(SIGPIPE, SIG_IGN)
        #expect(throws: SyscallError.self) { try writer.write([1]) }
        #expect(try writer.control(PipeContent.getSize) == 1 << 17)
    }

    @Test("are replaced by what the caller gives for them")
    func inherited() throws {
        let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK), given = try FileDescriptor.pipe(flags: O_NONBLOCK)
        let inode = try reading.status().inode
        let after = try dumpAndRestore([writing]) { $0.inherited = [(descriptor: given.writing.number, key: "pipe:[\(inode)]")] }[0]
        try after.write([9])
        #expect(try given.reading.read(10) == [9])
        _ = reading
    }
}
