import CLinux
import Glibc
package import Images
package import Linux
package import SwiftProtobuf

/// The images a dump writes, by file name: opened at the first entry, closed and flushed together at the commit.
package final class DumpImages {
    package let directory: FileDescriptor
    private var writers: [String: ImageWriter] = [:]

    /// Whether another thread writes whole images meanwhile, as is worth it where there are many. What fails there, `finish` throws.
    package var writesBehind = false
    private let isKept: Bool
    private let workers = Workers()
    private var pages: [NewPagesFile] = []

    private let compression: Compression?
    private let goesDirectly: Bool
    private let seal: ImageSeal?
    /// Whether pages go through our buffers.
    package var copiesPages: Bool { compression != nil || goesDirectly || seal != nil }

    /// - Parameters:
    ///   - seal: what images are encrypted with.
    ///   - directly: whether pages go past the page cache.
    package init(directory: FileDescriptor, compression: Compression? = nil, seal: ImageSeal? = nil, directly: Bool = false) {
        (self.directory, isKept, self.compression, self.seal, goesDirectly) = (directory, true, compression, seal, directly)
    }

    /// Images that nobody keeps: everything goes to /dev/null.
    package static func discarded() throws(SyscallError) -> DumpImages { DumpImages(null: try FileDescriptor.open("/dev/null", O_RDWR)) }
    private init(null: FileDescriptor) { (directory, isKept, compression, seal, goesDirectly) = (null, false, nil, nil, false) }

    /// Adds an entry, followed by raw payload bytes where the format has some (pipes-data, sk-queues ...).
    package func append(_ name: String, _ message: some Message, payload: [UInt8] = []) throws {
        let writer = try self.writer(name)
        try writer.append(message)
        if !payload.isEmpty { try writer.appendRaw(payload) }
    }

    /// Makes the image although it may stay without entries.
    package func create(_ name: String) throws { _ = try writer(name) }

    private func writer(_ name: String) throws -> ImageWriter {
        if let found = writers[name] { return found }
        let made = isKept ? try ImageWriter(directory: directory, name: name, seal) : try ImageWriter(to: directory.duplicate(), name: name)
        writers[name] = made
        return made
    }

    /// Writes a whole image and closes it: those of one process, of which a tree may have thousands.
    package func write(_ name: String, _ messages: some Sequence<any Message>) throws {
        let messages = Array(messages)
        try write(name) { writer throws(ImageError) in for message in messages { try writer.append(message) } }
    }

    /// The same for an image of one entry and the bytes that follow it.
    package func write(_ name: String, _ message: some Message, payload: [UInt8]) throws {
        try write(name) { writer throws(ImageError) in
            try writer.append(message)
            try writer.appendRaw(payload)
        }
    }

    /// An image without entries.
    package func writeRaw(_ name: String, _ bytes: [UInt8]) throws { try write(name) { writer throws(ImageError) in try writer.appendRaw(bytes) } }

    private func write(_ name: String, _ fill: @escaping @Sendable (ImageWriter) throws(ImageError) -> Void) throws {
        guard isKept else { return }
        let job = { @Sendable [directory, seal] in
            let writer = try ImageWriter(directory: directory, name: name, seal)
            try fill(writer)
            try writer.finish(sync: false)
        }
        if writesBehind { workers.run(limit: 64, job) } else { try job() }
    }

    /// Makes pages-NUMBER.img, compressed-NUMBER.img or sealed-NUMBER.img. The images' end brings its pagemap and checksums.
    package func pagesFile(_ number: UInt32, pagemap: String) throws(ImageError) -> NewPagesFile {
        let file = try NewPagesFile(number, pagemap: pagemap, in: directory, workers, compression, seal, directly: goesDirectly)
        pages.append(file)
        return file
    }

    /// Writes out what is buffered and closes every image. What has been written is on the disk only after `flushToDisk`.
    package func finish() throws {
        for name in writers.keys.sorted() { try writers[name]!.finish(sync: false) }
        writers = [:]
        try workers.finish()
        for file in pages { try file.writeImages(in: directory) }
        pages = []
    }

    /// checksums.img: of all images, which are complete.
    /// - Parameter ownPages: whether no page server has the pages.
    package func writeChecksums(ownPages: Bool) throws(ImageError) { try FileChecksums.write(in: directory, seal, ownPages: ownPages) }

    /// After a dump that failed nothing more is written.
    package func cancel() { workers.cancel() }
    deinit { cancel() }

    /// syncfs(2): every image of the directory at once, in one commit of the file system's journal.
    package func flushToDisk() throws {
        try Syscall.call("syncfs", SYS_syncfs, Int(directory.number), on: .fd(directory.number))
    }
}
