import Glibc
import ImageMessages
public import Linux

/// A CRC-32C for each page of a pages file, in checksums-N.img beside pages-N.img (of one compressed: of the pages as they were), and one of
/// the pagemap that says where the pages belong. So a page that changed is known by its address.
///
/// A page that was freed (dedup: a hole in the file) keeps the checksum of what it held: who still wants it finds that it is gone.
public struct PageChecksums: Equatable, Sendable {
    public var sums: [UInt32]
    public init(_ sums: [UInt32] = []) { self.sums = sums }

    /// Writes them for the pages file `number`, whose pagemap image is written already.
    public func write(for number: UInt32, pagemap: String, in directory: FileDescriptor, _ seal: ImageSeal? = nil) throws(ImageError) {
        var bytes = [UInt8]()
        bytes.reserveCapacity(sums.count * 4)
        for sum in sums { bytes.append(word: sum) }
        var entry = StasisPageChecksums()
        (entry.pagemap, entry.pages, entry.crc32C) = (pagemap, UInt64(sums.count), Checksum.of(bytes))
        entry.pagemapCrc32C = try Self.sum(of: pagemap, in: directory)
        let writer = try ImageWriter(directory: directory, name: ImageFile.pageChecksums.name(number), seal)
        try writer.append(entry)
        try writer.appendRaw(bytes)
        try writer.finish(sync: false)
    }

    /// Those of the pages file `number`; nil where there are none: CRIU wrote the images. The pagemap is held against its checksum.
    public init?(of number: UInt64, in directory: ImageDirectory) throws(ImageError) {
        guard directory.exists(.pageChecksums, number) else { return nil }
        var reader = try directory.reader(.pageChecksums, number)
        let entry = try reader.single(StasisPageChecksums.self)
        guard entry.pages <= reader.remaining / 4 else { throw ImageError(reader.name, entry: 0, field: "pages", "\(entry.pages) are more than the file has") }
        let bytes = try reader.payload(entry.pages * 4)
        try reader.finish()
        guard Checksum.of(bytes) == entry.crc32C else { throw Self.damaged(reader.name) }
        guard try Self.sum(of: entry.pagemap, in: directory.descriptor) == entry.pagemapCrc32C else { throw Self.damaged(entry.pagemap) }
        sums = bytes.words(in: 0..<bytes.count)
    }

    static func damaged(_ name: String) -> ImageError {
        ImageError(name, "it is not as it was dumped: its checksum differs", remedy: remedy)
    }
    public static let remedy = "copy the images again from where they were dumped to; with --no-verify a restore takes them as they are"

    private static func sum(of name: String, in directory: FileDescriptor) throws(ImageError) -> UInt32 {
        let (file, size) = try ImageReader.open(name, in: directory)
        do throws(SyscallError) { return try Checksum.of(file, size: size).sum } catch { throw ImageError(name, "it can't be read", error) }
    }
}
