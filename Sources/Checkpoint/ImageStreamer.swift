import Glibc
import ImageMessages
package import Images
import Kinds
package import Linux
import SwiftProtobuf

/// Images through criu-image-streamer, which listens on a socket in the image directory (format README, 16.6): for each image goes its name,
/// and a pipe for its content. A streamer holds no directory that could be listed, and gives an image once.
///
/// A dump knows its images only when they are complete, a restore looks into them again and again: on our side they lie in a directory in
/// memory, which goes with us.
package final class ImageStreamer {
    package enum Direction: String { case capture = "streamer-capture.sock", serve = "streamer-serve.sock" }
    private let socket: FileDescriptor
    private let direction: Direction
    private let buffer = PageBuffer()

    package init(_ direction: Direction, in directory: FileDescriptor) throws {
        self.direction = direction
        socket = try CheckpointError.about("reach", .object("the image streamer (\(direction.rawValue))"), remedy: "start criu-image-streamer with the same -D first") {
            let socket = try FileDescriptor.socket(1, 1)
            try socket.connect(SocketAddress(unix: Array("/proc/self/fd/\(directory.number)/\(direction.rawValue)\0".utf8)))
            return socket
        }
    }

    // MARK: a dump

    /// Gives all images of a directory, each gone from there when it is with the streamer.
    package func give(_ images: FileDescriptor) throws {
        let names = try Files.names(in: ".", at: images.number).sorted()
        // A restore asks for images by name, and knows none of a plugin's.
        if let other = names.first(where: { $0.hasSuffix(".img") && ImageKind.named($0) == nil }) {
            throw CheckpointError("stream", .image(other), "it is a plugin's, and a restore could not ask the streamer for it", remedy: "dump without --stream")
        }
        for name in names where ImageKind.named(name) != nil {
            let file = try FileDescriptor.open(name, O_RDONLY | O_NOFOLLOW, at: images.number)
            try CheckpointError.about("stream", .image(name), remedy: "see what criu-image-streamer says") {
                try ask(for: name)
                try pour(file, into: try handOver({ $0.reading }, keeping: { $0.writing }))
            }
            try Files.unlink(name, at: images.number)
        }
    }

    private func pour(_ file: FileDescriptor, into pipe: FileDescriptor) throws {
        let size = UInt64(try file.status().size)
        var at: UInt64 = 0
        while at < size {
            let got = buffer.read(from: file, at: at, Int(size - at))
            guard got > 0 else { throw SyscallError("pread", .fd(file.number), EIO) }
            try buffer.send(over: pipe)
            at += UInt64(got)
        }
    }

    private typealias Pipe = (reading: FileDescriptor, writing: FileDescriptor)
    /// Sends one end of a new pipe. We must not hold it ourselves: the other end would never see an end.
    private func handOver(_ its: (Pipe) -> FileDescriptor, keeping ours: (Pipe) -> FileDescriptor) throws -> FileDescriptor {
        let pipe = try FileDescriptor.pipe()
        try socket.send([0], descriptors: [its(pipe)])
        return ours(pipe)
    }

    private func ask(for name: String) throws {
        var request = ImgStreamerRequestEntry()
        request.filename = name
        try socket.write(try ImageWriter.frame(request))
    }

    // MARK: a restore

    /// Takes all images into an empty directory. Which there are is found in those that came before.
    package func take(into directory: FileDescriptor, _ secrets: ImageSecrets) throws {
        let images = try ImageDirectory(directory, secrets)
        var asked = Set<String>()
        func take(_ names: some Sequence<String>) throws { for name in names where asked.insert(name).inserted { try self.take(name, into: directory) } }

        try take(ImageKind.all.filter { $0.number == .none }.map { $0.name() })
        guard images.exists(.inventory) else { throw CheckpointError("restore", .object("what the image streamer gives"), "it has no inventory.img", remedy: "give it the whole of a dump") }
        if let checksums = try FileChecksums(of: images) { try take(checksums.names) }
        let numbered = ImageKind.all.filter { $0.number == .decimal && !Self.byPagemap.contains($0.prefix) }
        let tasks = Set(try images.all(.pstree).flatMap { [$0.pid] + $0.threads }.map(UInt64.init))
        for number in tasks.sorted() { try take(numbered.map { $0.name(number) }) }
        for number in try Self.numbers(named: images, tasks).sorted() { try take(numbered.map { $0.name(number) }) }
        try take(try images.all(.remaps, optional: true).map { ImageFile.ghostFile.name($0.remapID & 0x7fff_ffff) })
        try take(try images.all(.files, optional: true).filter(\.hasIsk).map { ImageFile.tcpStream.name($0.isk.ino) })
        for name in try images.names() {
            guard let (file, number) = ImageFile.pagemap(named: name) else { continue }
            var pagemap = try images.reader(file, number)
            let pages = try pagemap.single(PagemapHead.self).pagesID
            try take([ImageKind.pages, .compressedPages, .sealedPages, ImageFile.pageChecksums.kind].map { $0.name(UInt64(pages)) })
        }
    }

    /// Numbers of tables, namespaces and shared segments that tasks and memory files name.
    private static func numbers(named images: ImageDirectory, _ tasks: Set<UInt64>) throws -> Set<UInt64> {
        var numbers: Set<UInt64> = [0]
        for task in tasks {
            var ids = images.exists(.ids, task) ? [try images.single(.ids, task)] : []
            if images.exists(.core, task) { ids.append(try images.single(.core, task).ids) }
            for ids in ids {
                for id in [ids.filesID, ids.fsID, ids.pidNsID, ids.netNsID, ids.ipcNsID, ids.utsNsID, ids.mntNsID, ids.userNsID, ids.cgroupNsID, ids.timeNsID] { numbers.insert(UInt64(id)) }
            }
            if images.exists(.mm, task) { numbers.formUnion(try images.single(.mm, task).vmas.map(\.shmid)) }
        }
        numbers.formUnion(try images.all(.memfds, optional: true).map { UInt64($0.shmid) })
        return numbers.subtracting(tasks)
    }
    private static let byPagemap: Set<String> = [ImageKind.pages.prefix, ImageKind.compressedPages.prefix, ImageKind.sealedPages.prefix, ImageFile.pageChecksums.kind.prefix]

    private func take(_ name: String, into directory: FileDescriptor) throws {
        try CheckpointError.about("take", .image(name), remedy: "see what criu-image-streamer says") {
            try ask(for: name)
            guard try reply() else { return }
            let file = try FileDescriptor.open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600, at: directory.number)
            try drain(try handOver({ $0.writing }, keeping: { $0.reading }), into: file)
        }
    }

    private func drain(_ pipe: FileDescriptor, into file: FileDescriptor) throws {
        while true {
            buffer.clear(0)
            guard try buffer.receiveSome(PageBuffer.capacity, from: pipe) > 0 else { return }
            try buffer.send(over: file)
        }
    }

    /// Whether it has the image.
    private func reply() throws -> Bool {
        guard try buffer.receive(4, from: socket) else { throw SyscallError("read", .fd(socket.number), 104 /* ECONNRESET */) }
        let length = buffer.bytes(0..<4).word(UInt32.self, at: 0)
        guard length <= 64, try buffer.receive(Int(length), from: socket) else { throw SyscallError("read", .fd(socket.number), EPROTO) }
        return try ImgStreamerReplyEntry(serializedBytes: buffer.bytes(0..<Int(length))).exists
    }
}
@available(*, unavailable) extension ImageStreamer: Sendable {}
