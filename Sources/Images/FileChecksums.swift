import Glibc
import ImageMessages
public import Linux

/// checksums.img: size and CRC-32C of every other image of a directory, as the file stands, but the pages, which have theirs page by page (PageChecksums). The
/// inventory says that it is there. Its last entry, without a name, has the sum of what is before it.
public struct FileChecksums: Sendable {
    let entries: [StasisFileChecksum]
    /// Of the images that it covers.
    public var names: [String] { entries.map(\.name) }

    /// Of all images in the directory, which are complete but for the inventory's name.
    /// - Parameter ownPages: whether pagemaps are among them: those of a page server that works in the same directory may not be complete yet.
    public static func write(in directory: FileDescriptor, _ seal: ImageSeal? = nil, ownPages: Bool = true) throws(ImageError) {
        let names: [String]
        do throws(SyscallError) { names = try Files.names(in: ".", at: directory.number).sorted() } catch { throw ImageError(".", "it can't be listed", error) }
        let writer = try ImageWriter(directory: directory, name: ImageFile.checksums.name, seal)
        var before = ImageFile.checksums.kind.magic.bytes
        for part in checksums(of: names.filter { $0 == newInventory || isCovered($0, ownPages) }, in: directory) {
            for var entry in try part.get() {
                if entry.name == newInventory { entry.name = "inventory.img" }
                let frame = try ImageWriter.frame(entry)
                before += frame
                try writer.appendRaw(frame)
            }
        }
        try writer.append(last(behind: before))
        try writer.finish(sync: false)
    }

    /// Of an inventory that nobody takes for one yet.
    private static let newInventory = "inventory.img.tmp"
    /// So many names are one job.
    private static let part = 250

    private static func checksums(of names: [String], in directory: FileDescriptor) -> [Result<[StasisFileChecksum], ImageError>] {
        let parts = stride(from: 0, to: names.count, by: part).map { Array(names[$0..<min($0 + part, names.count)]) }
        return Workers.map(parts) { names in
            let buffer = PageBuffer(Checksum.piece)
            return Result { () throws(ImageError) in try names.map { name throws(ImageError) in try checksum(name, in: directory, buffer) } }
        }
    }

    private static func last(behind bytes: [UInt8]) -> StasisFileChecksum {
        var entry = StasisFileChecksum()
        (entry.size, entry.crc32C) = (UInt64(bytes.count), Checksum.of(bytes))
        return entry
    }

    private static func isCovered(_ name: String, _ ownPages: Bool) -> Bool {
        guard name.hasSuffix(".img"), name != ImageFile.checksums.name, name != "inventory.img", let kind = ImageKind.named(name)?.kind else { return false }
        return !kind.isPages && kind.prefix != ImageKind.pagesEncryption.prefix && (ownPages || kind.layout != .pagemap)
    }

    private static func checksum(_ name: String, in directory: FileDescriptor, _ buffer: PageBuffer) throws(ImageError) -> StasisFileChecksum {
        let (file, size) = try ImageReader.open(name, in: directory)
        var entry = StasisFileChecksum()
        entry.name = name
        do throws(SyscallError) { (entry.crc32C, entry.size) = try Checksum.of(file, size: size, through: buffer) } catch { throw ImageError(name, "it can't be read", error) }
        return entry
    }

    /// Those of a directory; nil where it has none: CRIU wrote it.
    public init?(of directory: ImageDirectory) throws(ImageError) {
        guard directory.exists(.checksums) else {
            let isKnown = directory.isEncrypted || (try? directory.single(.inventory))?.stasis.checksums == true
            guard isKnown else { return nil }
            throw ImageError(
                ImageFile.checksums.name, "it is missing, and it belongs here", remedy: PageChecksums.remedy, errno: Errno(ENOENT))
        }
        let bytes = try directory.contents(of: ImageFile.checksums.name)
        var reader = try ImageReader(ImageFile.checksums.name, bytes: bytes)
        var entries = [StasisFileChecksum]()
        while true {
            let start = Int(reader.offset)
            guard let entry = try reader.next(StasisFileChecksum.self) else { throw ImageError(reader.name, "it is cut short") }
            if entry.hasName { entries.append(entry); continue }
            guard try Array(bytes[start...]) == ImageWriter.frame(Self.last(behind: Array(bytes[..<start]))) else { throw PageChecksums.damaged(reader.name) }
            break
        }
        self.entries = entries
    }

    /// The first image that is missing or has changed, and all of them.
    public func problems(in directory: ImageDirectory) -> [ImageError] {
        let buffer = PageBuffer(Checksum.piece)
        return entries.compactMap { entry in
            do throws(ImageError) {
                let now = try Self.checksum(entry.name, in: directory.descriptor, buffer)
                if now.size != entry.size {
                    return ImageError(entry.name, "it is not as it was dumped: it has \(now.size) bytes, not \(entry.size)", remedy: PageChecksums.remedy)
                }
                return now.crc32C == entry.crc32C ? nil : PageChecksums.damaged(entry.name)
            } catch { return error }
        }
    }
}
