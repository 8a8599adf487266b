import Glibc
package import Linux

extension PageBuffer {
    /// Puts what was read into missing pages of a process; returns how many bytes it took.
    package func fill(_ fault: Userfault, at address: UInt64, from start: Int, _ length: Int) throws(SyscallError) -> Int {
        try unsafe fault.copy(memory(start..<(start + length)), to: address)
    }
}

/// Copies pages of a process out, also those that it may not read itself.
package struct PageCopier {
    package let process: ThreadID
    private let memory: FileDescriptor?
    private let buffer: PageBuffer
    /// Addresses that are to be seen as zeros.
    package var blanks: [Range<UInt64>] = []

    package init(of process: ThreadID, _ buffer: PageBuffer) {
        (self.process, self.buffer) = (process, buffer)
        memory = try? FileDescriptor.open("/proc/\(process)/mem", O_RDONLY)
    }

    /// Gives `body` the pages piece by piece, in the buffer. A page that can't be read any more is given as nil and one page long.
    package func copy(_ range: Range<UInt64>, _ body: (_ piece: Range<UInt64>, _ content: PageBuffer?) throws -> Void) throws {
        var at = range.lowerBound
        while at < range.upperBound {
            var got = buffer.read(at..<range.upperBound, of: process)
            if got == 0, let memory { got = buffer.inspect(at..<(at + 4096), memory) & ~4095 }
            if got == 0 {
                try body(at..<(at + 4096), nil)
                at += 4096
                continue
            }
            buffer.blank(blanks, from: at)
            try body(at..<(at + UInt64(got)), buffer)
            at += UInt64(got)
        }
    }
}
