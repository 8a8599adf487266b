import Glibc
public import Linux
public import SwiftProtobuf

/// An image directory, held open: its name may change while it is used. A missing file is an error that names it, unless the
/// format lets it be absent.
public final class ImageDirectory: Sendable {
    public let descriptor: FileDescriptor
    let keys: DirectoryKeys

    /// - Parameter secrets: for encrypted images.
    public init(_ descriptor: FileDescriptor, _ secrets: ImageSecrets = .none) throws(ImageError) { (self.descriptor, keys) = (descriptor, DirectoryKeys(secrets)) }

    public init(path: String, _ secrets: ImageSecrets = .none) throws(ImageError) {
        keys = DirectoryKeys(secrets)
        do throws(SyscallError) { descriptor = try FileDescriptor.open(path, O_RDONLY | O_DIRECTORY) } catch {
            throw ImageError(path, "it can't be opened as an images directory", error)
        }
    }

    // MARK: Files by name

    public func exists(_ name: String) -> Bool { (try? Files.status(name, at: descriptor.number)) != nil }

    /// Size in bytes of a regular file.
    public func size(of name: String) throws(ImageError) -> UInt64 { try ImageReader.open(name, in: descriptor).1 }

    /// Names of everything in the directory, sorted.
    public func names() throws(ImageError) -> [String] {
        do throws(SyscallError) { return try Files.names(in: ".", at: descriptor.number).sorted() } catch { throw ImageError(".", "it can't be listed", error) }
    }

    /// Opens a regular file for reading, as it is.
    public func open(_ name: String) throws(ImageError) -> FileDescriptor { try ImageReader.open(name, in: descriptor).0 }

    /// An image's bytes.
    public func contents(of name: String, limit: UInt64 = 256 << 20) throws(ImageError) -> [UInt8] {
        let (file, size, _) = try opened(name)
        guard size <= limit else { throw ImageError(name, "\(size) bytes are more than the \(limit) that are read at once") }
        return try file.bytes(Int(size), at: 0, named: name)
    }

    /// Bytes of a payload.
    public func read(_ payload: ImagePayload, limit: UInt64 = 256 << 20) throws(ImageError) -> [UInt8] {
        guard payload.count <= limit else {
            throw ImageError(payload.file, offset: payload.range.lowerBound, "\(payload.count) bytes of data are more than the \(limit) that are read at once")
        }
        if payload.count == 0 { return [] }
        let (file, size, _) = try opened(payload.file)
        guard payload.range.upperBound <= size else { throw ImageError(payload.file, offset: payload.range.lowerBound, "the file became shorter while it was read") }
        return try file.bytes(Int(payload.count), at: payload.range.lowerBound, named: payload.file)
    }

    public func reader(_ name: String) throws(ImageError) -> ImageReader { try ImageReader(name, in: self) }

    /// The entry of a file that has one.
    public func single<M: Message>(_ name: String, _ type: M.Type) throws(ImageError) -> M {
        var reader = try reader(name)
        let message = try reader.single(type)
        try reader.finish()
        return message
    }

    /// Every entry; none when the file is absent and `optional`.
    public func all<M: Message>(_ name: String, _ type: M.Type, optional: Bool = false) throws(ImageError) -> [M] {
        if optional && !exists(name) { return [] }
        var reader = try reader(name)
        return try reader.all(type)
    }

    /// Entries each followed by bytes, read into memory; none when the file is absent.
    public func payloadEntries<M: Message>(_ name: String, of type: M.Type, length: (M) -> Int) throws(ImageError) -> [(M, [UInt8])] {
        guard exists(name) else { return [] }
        var reader = try reader(name)
        var found = [(M, [UInt8])]()
        while let message = try reader.next(type) { found.append((message, try reader.payload(UInt64(clamping: length(message))))) }
        return found
    }

    // MARK: Files by kind: `single(.core, pid)` is a CoreEntry

    public func exists<Entry, Number: BinaryInteger>(_ file: ImageFile<Entry>, _ number: Number = UInt64(0)) -> Bool { exists(file.name(number)) }

    public func reader<Entry, Number: BinaryInteger>(_ file: ImageFile<Entry>, _ number: Number = UInt64(0)) throws(ImageError) -> ImageReader {
        try reader(file.name(number))
    }

    public func single<Entry, Number: BinaryInteger>(_ file: ImageFile<Entry>, _ number: Number = UInt64(0)) throws(ImageError) -> Entry {
        try single(file.name(number), Entry.self)
    }

    public func singleIfPresent<Entry, Number: BinaryInteger>(_ file: ImageFile<Entry>, _ number: Number = UInt64(0)) throws(ImageError) -> Entry? {
        exists(file, number) ? try single(file, number) : nil
    }

    public func all<Entry, Number: BinaryInteger>(_ file: ImageFile<Entry>, _ number: Number = UInt64(0), optional: Bool = false) throws(ImageError) -> [Entry] {
        try all(file.name(number), Entry.self, optional: optional)
    }

    /// Writes a whole image. Without entries it has its magic only.
    public func write<Entry, Number: BinaryInteger>(_ file: ImageFile<Entry>, _ number: Number = UInt64(0), _ entries: [Entry], sync: Bool = false) throws(ImageError) {
        let writer = try ImageWriter(directory: descriptor, name: file.name(number), try sealForMore())
        for entry in entries { try writer.append(entry) }
        try writer.finish(sync: sync)
    }

    // MARK: Incremental images

    /// The directory `parent` leads to, nil without one (format 1.6).
    public func parent() throws(ImageError) -> ImageDirectory? {
        let opened: FileDescriptor
        do throws(SyscallError) { opened = try FileDescriptor.open("parent", O_RDONLY | O_DIRECTORY, at: descriptor.number) } catch {
            // a link that leads nowhere is an error, no link is not
            if error.errno.rawValue == ENOENT, (try? Files.status("parent", at: descriptor.number, followLinks: false)) == nil { return nil }
            throw ImageError(
                "parent", "it leads to no directory (\(error.errno))", remedy: "put the directory of the previous dump back to its place", errno: error.errno)
        }
        return try ImageDirectory(opened, keys.secrets)
    }

    /// Device and inode, to recognise a directory met again.
    func identity() throws(ImageError) -> [UInt64] {
        do throws(SyscallError) {
            let status = try descriptor.status()
            return [status.device, status.inode]
        } catch { throw ImageError(".", "it can't be examined", error) }
    }
}
