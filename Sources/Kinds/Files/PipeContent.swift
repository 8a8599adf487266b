import CLinux
import Glibc
package import ImageMessages
import Images
package import Linux

/// What stands in a pipe or fifo: its bytes, and where packets begin and end (pipe(2), O_DIRECT).
package struct PipeContent: Equatable, Sendable {
    /// Consecutive bytes: one packet, or a piece of a stream.
    package struct Segment: Equatable, Sendable {
        package var length: Int, isPacket: Bool
        package init(length: Int, isPacket: Bool) { (self.length, self.isPacket) = (length, isPacket) }
    }
    package var bytes: [UInt8] = []
    /// All bytes in order; empty when they are one stream.
    package var segments: [Segment] = []
    /// Bytes that the pipe can hold (F_GETPIPE_SZ).
    package var capacity: Int

    package static let getSize: Int32 = 1032, setSize: Int32 = 1031

    package init(bytes: [UInt8], segments: [Segment] = [], capacity: Int) { (self.bytes, self.segments, self.capacity) = (bytes, segments, capacity) }

    /// Looks into a pipe through its reading end and takes nothing: tee(2) into a pipe of ours, which keeps the marks of packets
    /// (fs/splice.c, link_pipe). A read there ends where a packet does, and takes away what it leaves of one (fs/pipe.c, pipe_read).
    /// - Parameter direct: whether this end has O_DIRECT: it decides where the content can't tell, for a single byte at the end.
    package init(peeking pipe: FileDescriptor, direct: Bool) throws(SyscallError) {
        capacity = try pipe.control(Self.getSize)
        let waiting = try Self.waiting(in: pipe)
        guard waiting > 0 else { return }
        let copy = try Self.copy(of: pipe, waiting, capacity)
        var chunks = [Int]()
        while bytes.count < waiting {
            let chunk = try copy.read(waiting - bytes.count)
            if chunk.isEmpty { break }
            chunks.append(chunk.count)
            bytes += chunk
        }
        let lengths = try Self.streamsBeforePackets(chunks, pipe, capacity)
        for (index, (length, stream)) in zip(chunks, lengths).enumerated() {
            // The last byte of all: alone it can't be told from a packet.
            let endsInStream = index == chunks.count - 1 && stream == length - 1 && !direct
            let cut = endsInStream ? length : stream
            if cut > 0 { segments.append(Segment(length: cut, isPacket: false)) }
            if cut < length { segments.append(Segment(length: length - cut, isPacket: true)) }
        }
        if !segments.contains(where: \.isPacket) { segments = [] }
    }

    /// How many bytes of a stream each chunk begins with, before the packet that ends it; at most all but one.
    private static func streamsBeforePackets(_ chunks: [Int], _ pipe: FileDescriptor, _ capacity: Int) throws(SyscallError) -> [Int] {
        let total = chunks.reduce(0, +)
        let copy = try copy(of: pipe, total, capacity)
        var found = [Int](), left = total
        for (index, length) in chunks.enumerated() {
            left -= length
            guard length > 1 else {
                found.append(0)
                _ = try copy.read(1)
                continue
            }
            _ = try copy.read(1)
            if try waiting(in: copy) == left {
                found.append(0)  // the rest went, too: a packet
                continue
            }
            // That many bytes can be read and the rest stays: true for low.
            var low = 1, high = length - 1
            if length > 2 { _ = try copy.read(length - 2) }
            if try waiting(in: copy) == left + 1 { low = high }
            if try waiting(in: copy) > left { _ = try copy.read(1) }
            while low < high {
                let middle = (low + high + 1) / 2
                if try keepsRest(chunks, index, middle, pipe, capacity) { low = middle } else { high = middle - 1 }
            }
            found.append(low)
        }
        return found
    }
    private static func keepsRest(_ chunks: [Int], _ index: Int, _ count: Int, _ pipe: FileDescriptor, _ capacity: Int) throws(SyscallError) -> Bool {
        let copy = try copy(of: pipe, chunks.reduce(0, +), capacity)
        for chunk in chunks[..<index] { _ = try copy.read(chunk) }
        _ = try copy.read(count)
        return try waiting(in: copy) == chunks[index...].reduce(0, +) - count
    }

    private static func waiting(in pipe: FileDescriptor) throws(SyscallError) -> Int {
        var count: Int32 = 0
        try pipe.ioctl("FIONREAD", 0x541b, &count)
        return Int(count)
    }

    private static func copy(of pipe: FileDescriptor, _ count: Int, _ capacity: Int) throws(SyscallError) -> FileDescriptor {
        let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        if capacity != (try writing.control(getSize)) { try writing.control(setSize, capacity) }
        let got = try Syscall.call("tee", SYS_tee, Int(pipe.number), Int(writing.number), count, 2 /* SPLICE_F_NONBLOCK */, on: .fd(pipe.number))
        if got != count { throw SyscallError("tee", .fd(pipe.number), EAGAIN) }
        return reading
    }

    /// Puts the content into an empty pipe through a non-blocking writing end, whose O_DIRECT is off again afterwards.
    package func write(into writing: FileDescriptor) throws(SyscallError) {
        try resize(writing)
        if segments.isEmpty { return bytes.isEmpty ? () : try writing.write(bytes) }
        var at = 0
        for segment in segments where segment.length > 0 {
            try writing.setStatusFlags(StatusFlags.nonblocking | (segment.isPacket ? StatusFlags.direct : 0))
            let end = min(at + segment.length, bytes.count)
            if at < end { try writing.write(Array(bytes[at..<end])) }
            at = end
        }
        try writing.setStatusFlags(StatusFlags.nonblocking)
        if at < bytes.count { try writing.write(Array(bytes[at...])) }
    }
    package func resize(_ writing: FileDescriptor) throws(SyscallError) {
        if capacity > 0, capacity != (try writing.control(Self.getSize)) { try writing.control(Self.setSize, capacity) }
    }
}

/// As pipes-data.img and fifo-data.img keep it: the field `packets` has the length of each packet, and with this mark that of a
/// piece of a stream between packets.
extension PipeContent {
    private static let streamMark: UInt32 = 1 << 31

    package func entry(of pipe: UInt32) -> PipeDataEntry {
        var entry = PipeDataEntry()
        (entry.pipeID, entry.bytes, entry.size) = (pipe, UInt32(truncatingIfNeeded: bytes.count), UInt32(truncatingIfNeeded: capacity))
        entry.packets = segments.map { UInt32(truncatingIfNeeded: $0.length) | ($0.isPacket ? 0 : Self.streamMark) }
        return entry
    }

    /// Everything in pipes-data.img or fifo-data.img, by pipe id; nothing when there is no such image.
    package static func read(_ image: String, _ context: RestoreContext) throws -> [UInt32: PipeContent] {
        guard context.images.exists(image) else { return [:] }
        var found = [UInt32: PipeContent]()
        var reader = try context.images.reader(image)
        while let entry = try reader.next(PipeDataEntry.self) {
            let bytes = try reader.payload(UInt64(entry.bytes))
            let segments = entry.packets.map { Segment(length: Int($0 & ~Self.streamMark), isPacket: $0 & Self.streamMark == 0) }
            found[entry.pipeID] = PipeContent(bytes: bytes, segments: segments, capacity: Int(entry.size))
        }
        return found
    }
}

extension FileDescriptor {
    /// A read(2) of a non-blocking file that answers with nothing where nothing waits.
    package func read(_ count: Int, orNothing: Bool) throws(SyscallError) -> [UInt8] {
        do throws(SyscallError) { return try read(count) }
        catch {
            if orNothing, error.errno == Errno(EAGAIN) { return [] }
            throw error
        }
    }
}
