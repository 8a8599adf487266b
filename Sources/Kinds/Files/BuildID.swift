import Glibc
import Linux

/// The build ids of the files met in one dump or restore, each read once: thousands of descriptors may be of one file.
final class BuildIDs: DumpState {
    private var known: [InodeKey: [UInt32]] = [:]

    /// - Parameters:
    ///   - status: of the file.
    ///   - path: where it is. Opened anew: reading through the program's own open file would move its access time.
    /// - Returns: nil when it may not be read.
    func words(of status: FileStatus, at path: String) -> [UInt32]? {
        let key = InodeKey(status)
        if let found = known[key] { return found }
        guard let file = try? FileDescriptor.open(path, O_RDONLY | OpenFlags.noAccessTime | O_NONBLOCK) else { return nil }
        let words = BuildID.words(of: file)
        known[key] = words
        return words
    }
}

/// The build id of an ELF file: the note of type NT_GNU_BUILD_ID, owner "GNU" (elf(5); ld(1), --build-id).
enum BuildID {
    /// As the image keeps it: bytes packed into little-endian words, the last one padded with zeros. Empty when there is none.
    static func words(of file: FileDescriptor) -> [UInt32] {
        guard let bytes = try? find(file) else { return [] }
        return stride(from: 0, to: bytes.count, by: 4).map { at in
            (0..<4).reduce(0) { at + $1 < bytes.count ? $0 | UInt32(bytes[at + $1]) << (8 * $1) : $0 }
        }
    }

    private static func find(_ file: FileDescriptor) throws -> [UInt8]? {
        let header = try file.read(64, at: 0)
        guard header.count >= 52, header.starts(with: [0x7f, 0x45, 0x4c, 0x46]), header[5] == 1 else { return nil }
        let wide = header[4] == 2
        guard wide ? header.count == 64 : header[4] == 1 else { return nil }
        let table = wide ? number(header, 32, 8) : number(header, 28, 4)
        let size = Int(number(header, wide ? 54 : 42, 2)), count = Int(number(header, wide ? 56 : 44, 2))
        guard size >= (wide ? 56 : 32), size <= 256, count <= 512, table < 1 << 40 else { return nil }
        let headers = try file.read(size * count, at: Int(table))
        for index in 0..<(headers.count / size) {
            let at = index * size
            guard number(headers, at, 4) == 4 else { continue }  // PT_NOTE
            let offset = wide ? number(headers, at + 8, 8) : number(headers, at + 4, 4)
            let length = wide ? number(headers, at + 32, 8) : number(headers, at + 16, 4)
            guard offset < 1 << 40, length <= 1 << 16 else { continue }
            if let found = note(in: try file.read(Int(length), at: Int(offset))) { return found }
        }
        return nil
    }

    private static func note(in bytes: [UInt8]) -> [UInt8]? {
        var at = 0
        while at + 12 <= bytes.count {
            let name = Int(number(bytes, at, 4)), content = Int(number(bytes, at + 4, 4)), type = number(bytes, at + 8, 4)
            let begin = at + 12 + (name + 3) & ~3
            let end = begin + content
            guard name <= bytes.count, content <= bytes.count, end <= bytes.count else { return nil }
            if type == 3, name == 4, bytes[(at + 12)..<(at + 16)].elementsEqual([0x47, 0x4e, 0x55, 0]) { return Array(bytes[begin..<end]) }
            at = begin + (content + 3) & ~3
        }
        return nil
    }

    private static func number(_ bytes: [UInt8], _ at: Int, _ size: Int) -> UInt64 {
        (0..<size).reduce(0) { $0 | UInt64(bytes[at + $1]) << (8 * $1) }
    }
}
