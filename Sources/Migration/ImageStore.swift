import Glibc
import Kinds
package import Linux

/// Where the images of a migration lie while it lasts: a directory for each round.
package final class ImageStore {
    package let root: FileDescriptor
    private var made: [String] = []
    private let mount: DetachedMount?

    /// In memory, in a file system that is mounted nowhere and goes with us.
    package init() throws {
        let memory = try CheckpointError.about("make", .object("a place for images in memory"), remedy: "run as root, or name a directory with -D") { try DetachedMount.memory() }
        (mount, root) = (memory.mount, memory.root)
    }
    /// In a directory of the caller's.
    package init(in directory: FileDescriptor) { (root, mount) = (directory, nil) }

    package func make(_ name: String) throws -> FileDescriptor {
        let path = "\(root.procPath)/\(name)"
        return try CheckpointError.about("make", .object("the image directory \(name)"), remedy: "name an empty directory with -D") {
            try Files.makeDirectory(path, mode: 0o700)
            made.append(name)
            return try FileDescriptor.open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, at: root.number)
        }
    }

    /// Removes what was made: the images of a tree that lives elsewhere, or never left, are good for nothing.
    package func clear() {
        for name in made {
            guard let directory = try? FileDescriptor.open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, at: root.number) else { continue }
            for file in (try? Files.names(in: ".", at: directory.number)) ?? [] { try? Files.unlink(file, at: directory.number) }
            try? Files.unlink(name, at: root.number, flags: 0x200 /* AT_REMOVEDIR */)
        }
        made = []
    }
    deinit { clear() }
}
@available(*, unavailable) extension ImageStore: Sendable {}
