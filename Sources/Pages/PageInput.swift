import Glibc
import Linux

/// What comes in on a connection, read many bytes at a time: a request of 32 bytes, and a page by itself, cost no system call each.
final class PageInput {
    private let stream: any ByteStream
    private let buffer = PageBuffer(1 << 18)
    /// Of the buffer, what was given out.
    private var taken = 0
    private var held: Int { buffer.count - taken }

    init(_ stream: any ByteStream) { self.stream = stream }

    /// The next request; nil when the other end closed before it, an error when it did within it.
    func request() throws -> [UInt8]? {
        if held == 0 { empty() }
        // Not more room than that is ever wanted: pages fill theirs by themselves.
        while held < PageRequest.size {
            if buffer.room == 0 { compact() }
            guard try buffer.receiveSome(buffer.room, from: stream) > 0 else {
                if held == 0 { return nil }
                throw SyscallError("read", .fd(stream.descriptor.number), 104 /* ECONNRESET */)
            }
        }
        return buffer.bytes(take(PageRequest.size))
    }

    /// Exactly `length` bytes behind what is in `pages`, which has room for them; false when the other end closes before.
    func append(_ length: Int, to pages: PageBuffer) throws -> Bool {
        let atHand = min(length, held)
        _ = pages.append(buffer, take(atHand))
        return try pages.receiveMore(length - atHand, from: stream)
    }

    private func take(_ length: Int) -> Range<Int> {
        taken += length
        return (taken - length)..<taken
    }
    private func empty() {
        buffer.clear(0)
        taken = 0
    }
    /// Part of a request is at the very end.
    private func compact() {
        let rest = buffer.bytes(taken..<buffer.count)
        empty()
        buffer.append(rest)
    }
}
