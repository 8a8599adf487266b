import Glibc
import Kinds
package import Linux
import Pages

/// Images, all but those of pages, from one directory into another on the other side.
package enum ImageTransfer {
    /// Larger ones go through a buffer piece by piece.
    private static let small = 1 << 18

    /// Returns how many bytes went.
    @discardableResult
    package static func send(_ directory: FileDescriptor, over connection: ControlConnection) throws -> UInt64 {
        let buffer = PageBuffer()
        var waiting = [UInt8](), total: UInt64 = 0
        for name in try Files.names(in: ".", at: directory.number).sorted() where name.hasSuffix(".img") {
            let file = try FileDescriptor.open(name, O_RDONLY, at: directory.number)
            let size = Int(try file.status().size)
            waiting += ControlMessage(.file, [name, "\(size)"]).bytes
            total += UInt64(size)
            if size <= small {
                waiting += try file.readAll(expecting: size + 1)
                if waiting.count < 4 * small { continue }
            }
            try connection.send(waiting)
            waiting = []
            var at = size <= small ? size : 0
            while at < size {
                let got = buffer.read(from: file, at: UInt64(at), size - at)
                guard got > 0 else { throw CheckpointError("send", .image(name), "it became shorter") }
                try CheckpointError.about("send", .image(name)) { try buffer.send(over: connection.pages.output) }
                at += got
            }
        }
        try connection.send(waiting)
        return total
    }

    /// Takes the image that `message` announces, of ours or of a plugin. A name that is none of an image, or is there already, is refused.
    package static func receive(_ message: ControlMessage, into directory: FileDescriptor, over connection: ControlConnection) throws {
        let name = message.text(0)
        guard name.hasSuffix(".img"), !name.hasPrefix("."), !name.contains("/"), let size = Int(message.text(1)), size >= 0 else {
            throw CheckpointError("take", .object("a file from the source"), "\"\(name)\" of \(message.text(1)) bytes is no image")
        }
        let file = try CheckpointError.about("write", .image(name)) {
            try FileDescriptor.open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600, at: directory.number)
        }
        let buffer = PageBuffer()
        var at = 0
        while at < size {
            guard try buffer.receive(min(size - at, PageBuffer.capacity), from: connection.pages.input) else {
                throw CheckpointError("take", .image(name), "the connection was cut")
            }
            try CheckpointError.about("write", .image(name), remedy: "free space there") { try buffer.write(to: file, at: UInt64(at)) }
            at += buffer.count
        }
    }
}
