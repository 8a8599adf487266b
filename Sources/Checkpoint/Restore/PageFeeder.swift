import Images
import Kinds
import Linux

/// Puts pages of a compressed image into place: threads of ours decompress them, hold them against their checksums, and write them into the
/// process, which stands still (process_vm_writev(2)).
struct PageFeeder {
    let workers: Workers
    let process: ThreadID
    let owner: Verification.Owner

    func feed(_ runs: [PageImage.Run], of file: PageImage.File) throws {
        for piece in Self.pieces(runs, of: 16 * (file.regions?.regionSize ?? 1 << 18)) {
            workers.run { [process, owner] in
                let reader = PagesReader(file)
                for run in piece {
                    try reader.eachPiece(of: run.offset..<(run.offset + UInt64(run.range.count))) { buffer, part, offset in
                        let address = run.range.lowerBound + offset - run.offset
                        if let damage = Verification.damage(buffer.checksums(of: part), of: file, at: offset, address, owner) { throw damage }
                        try buffer.write(part, to: process, at: address)
                    }
                }
            }
        }
        do { try workers.finish() } catch let error as ImageError { throw CheckpointError("restore", error) }
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
