import Glibc
public import ImageMessages
public import Linux
public import SwiftProtobuf

/// Writes one image file: magic, then entries of a length word and a message, then any payload. Buffered.
public final class ImageWriter {
    public let name: String
    private let file: FileDescriptor
    private var buffer: [UInt8]
    private var sealer: SealedImage.Sealer?
    private static let limit = 1 << 18

    /// Creates or truncates `name` in the directory, mode 0644. The magic follows from the name; raw files have none.
    public convenience init(directory: FileDescriptor, name: String, _ seal: ImageSeal? = nil) throws(ImageError) {
        try self.init(directory: directory, name: name, seal, seal?.head())
    }

    init(directory: FileDescriptor, name: String, _ seal: ImageSeal?, _ head: SealedImage.Head?) throws(ImageError) {
        guard let kind = ImageKind.named(name)?.kind else { throw ImageError(name, "this is no image's name") }
        self.name = name
        buffer = kind.magic.bytes
        if let seal, let head { sealer = SealedImage.Sealer(head, seal.key, name: name) }
        do throws(SyscallError) {
            file = try FileDescriptor.open(name, O_RDWR | O_CREAT | O_TRUNC, mode: 0o644, at: directory.number)
        } catch { throw ImageError(name, "it can't be created", error) }
    }

    /// Writes to an open file, such as /dev/null.
    public init(to file: FileDescriptor, name: String) throws(ImageError) {
        guard let kind = ImageKind.named(name)?.kind else { throw ImageError(name, "this is no image's name") }
        (self.name, self.file, buffer) = (name, file, kind.magic.bytes)
    }

    public func append(_ message: some Message) throws(ImageError) { try appendRaw(Self.frame(message, file: name)) }

    /// An entry of a pagemap, of which there may be very many.
    public func append(_ entry: PagemapEntry) throws(ImageError) {
        guard entry.appendPlain(to: &buffer) else { return try appendRaw(Self.frame(entry, file: name)) }
        if buffer.count > Self.limit { try flush() }
    }

    public func appendRaw(_ bytes: [UInt8]) throws(ImageError) {
        buffer += bytes
        if buffer.count > Self.limit { try flush() }
    }

    private func flush() throws(ImageError) {
        if buffer.isEmpty { return }
        try write(sealer?.take(buffer) ?? buffer)
        buffer.removeAll(keepingCapacity: true)
    }

    private func write(_ bytes: [UInt8]) throws(ImageError) {
        do throws(SyscallError) { try file.write(bytes) } catch { throw ImageError(name, "it can't be written", error) }
    }

    /// The end: writes out and, with `sync`, flushes to the disk (fdatasync(2)): an error here means lost data.
    public func finish(sync: Bool = true) throws(ImageError) {
        try flush()
        if let end = sealer?.finish() { try write(end) }
        sealer = nil
        if !sync { return }
        do throws(SyscallError) { try Syscall.call("fdatasync", Self.fdatasync, Int(file.number), on: .path(name)) } catch {
            throw ImageError(name, "it can't be written to the disk", error)
        }
    }
    /// The call's number on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
    private static let fdatasync: Int32 = 75

    /// An entry as it stands in a file: its length as a little-endian word, then the message.
    public static func frame(_ message: some Message, file: String = "image") throws(ImageError) -> [UInt8] {
        let body: [UInt8]
        do { body = try message.serializedBytes() } catch {
            throw ImageError(file, "an entry can't be written: a required field of its \(type(of: message).protoMessageName) is not set")
        }
        guard UInt64(body.count) <= ImageReader.largestEntry else { throw ImageError(file, "an entry of \(body.count) bytes is too long") }
        return little32(UInt32(body.count)) + body
    }
}
