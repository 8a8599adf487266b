import Images
import Kinds
import Linux
import Pages

/// Puts pages of an image into place: threads of ours read them, decompressed if need be, hold them against their checksums, and write them into
/// the process, which stands still.
struct PageFeeder {
    let workers: Workers
    let process: ThreadID
    let owner: Verification.Owner
    /// Of memory that has no page yet: filling it (UFFDIO_COPY) takes less time than making pages of zeros and writing them. Elsewhere
    /// process_vm_writev(2) does.
    var fault: Userfault?

    func feed(_ runs: [PageImage.Run], of file: PageImage.File) throws {
        for piece in Self.pieces(runs, of: 16 * (file.regions?.regionSize ?? 1 << 18)) { workers.run { [self] in try feed(piece: piece, of: file) } }
        do { try workers.finish() } catch let error as ImageError { throw CheckpointError("restore", error) }
    }

    /// Runs that lie one behind the other in the file are read together, however far apart they belong.
    private func feed(piece runs: [PageImage.Run], of file: PageImage.File) throws {
        let reader = PagesReader(file)
        var rest = runs[...]
        while let first = rest.first {
            var end = first.end
            for run in rest.dropFirst() {
                guard run.offset == end else { break }
                end = run.end
            }
            try reader.eachPiece(of: first.offset..<end) { buffer, part, offset in
                let has = offset..<(offset + UInt64(part.count))
                while let run = rest.first, run.offset < has.upperBound {
                    let common = max(run.offset, has.lowerBound)..<min(run.end, has.upperBound), address = run.range.lowerBound + common.lowerBound - run.offset
                    let start = part.lowerBound + Int(common.lowerBound - offset), mine = start..<(start + common.count)
                    if file.checksums != nil, let damage = Verification.damage(buffer.checksums(of: mine), of: file, at: common.lowerBound, address, owner) { throw damage }
                    try put(mine, of: buffer, at: address)
                    if run.end > has.upperBound { break }
                    rest.removeFirst()
                }
            }
        }
    }

    private func put(_ part: Range<Int>, of buffer: PageBuffer, at address: UInt64) throws(SyscallError) {
        var done = 0
        while let fault, done < part.count {
            // A page that is there already, or none of the watched memory: written as elsewhere.
            guard let filled = try? buffer.fill(fault, at: address + UInt64(done), from: part.lowerBound + done, part.count - done) else { break }
            done += filled
        }
        if done < part.count { try buffer.write((part.lowerBound + done)..<part.upperBound, to: process, at: address + UInt64(done)) }
    }

    /// One for each job: runs whose pages lie between the same multiples of `size` in the file, so that no region is decompressed by two.
    private static func pieces(_ runs: [PageImage.Run], of size: UInt64) -> [[PageImage.Run]] {
        var found = [[PageImage.Run]](), last: UInt64?
        for run in runs.sorted(by: { $0.offset < $1.offset }) {
            var rest = run
            while !rest.range.isEmpty {
                let number = rest.offset / size, length = min(UInt64(rest.range.count), (number + 1) * size - rest.offset)
                let part = rest.clamped(to: rest.range.lowerBound..<(rest.range.lowerBound + length))
                if last == number { found[found.count - 1].append(part) } else { found.append([part]) }
                last = number
                rest = rest.clamped(to: part.range.upperBound..<rest.range.upperBound)
            }
        }
        return found
    }
}
