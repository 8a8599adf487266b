import Glibc
package import Kinds
package import Linux

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

    /// Gives `body` the runs in their order, some at a time, with the content of those that have it, one behind the other. Many pages that lie
    /// apart take one call. A page that can't be read any more is left out.
    /// - Parameter gone: told of such a page.
    package func copy(_ runs: [PageRuns.Run], gone: (Range<UInt64>) throws -> Void, _ body: (_ some: [PageRuns.Run], _ content: PageBuffer) throws -> Void) throws {
        var next = 0, from = runs.first?.range.lowerBound ?? 0
        func rest(of index: Int) -> Range<UInt64> { index == next ? from..<runs[index].range.upperBound : runs[index].range }
        func advance(to address: UInt64) {
            from = address
            guard from == runs[next].range.upperBound else { return }
            next += 1
            if next < runs.count { from = runs[next].range.lowerBound }
        }
        while next < runs.count {
            var wanted = [Range<UInt64>](), index = next, bytes = 0
            while index < runs.count, bytes < PageBuffer.capacity, wanted.count < Self.most {
                if runs[index].hasContent {
                    wanted.append(rest(of: index))
                    bytes += wanted[wanted.count - 1].count
                }
                index += 1
            }
            let got = try read(wanted)
            var some = [PageRuns.Run](), left = got
            while next < runs.count, left > 0 || !runs[next].hasContent {
                var run = runs[next]
                run.range = run.hasContent ? from..<min(from + UInt64(left), run.range.upperBound) : run.range
                if run.hasContent {
                    buffer.blank(blanks, in: run.range, at: got - left)
                    left -= run.range.count
                }
                some.append(run)
                advance(to: run.range.upperBound)
            }
            if !some.isEmpty { try body(some, buffer) }
            if got == 0, next < runs.count {
                try gone(from..<(from + 4096))
                advance(to: from + 4096)
            }
        }
    }

    /// As many pieces as one call takes.
    private static let most = 1024

    /// As many of the pages as one call takes, from the first on; none when that can't be read.
    private func read(_ ranges: [Range<UInt64>]) throws -> Int {
        let got = buffer.read(ranges, of: process)
        guard got == 0, let memory, let first = ranges.first else { return got }
        let inspected = buffer.inspect(first.lowerBound..<(first.lowerBound + 4096), memory)
        if inspected < 4096 { buffer.clear(0) }
        return buffer.count
    }
}
