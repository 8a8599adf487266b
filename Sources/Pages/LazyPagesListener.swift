import Glibc
package import ImageMessages
package import Images
import Kinds
package import Linux

/// Where a restore with postponed pages finds who gives them: a socket in its work directory, which serves one restore.
package final class LazyPagesListener: Sendable {
    private let socket: FileDescriptor, directory: FileDescriptor

    package init(in directory: FileDescriptor) throws {
        self.directory = directory
        socket = try CheckpointError.about("listen on", .file(LazyRestore.socketName), remedy: "a directory that you may write to with -W") {
            let socket = try FileDescriptor.socket(1, 1)
            try? Files.unlink(LazyRestore.socketName, at: directory.number)
            try socket.bind(SocketAddress(unix: Array("/proc/self/fd/\(directory.number)/\(LazyRestore.socketName)\0".utf8)))
            try socket.listen(1)
            return socket
        }
    }
    deinit { try? Files.unlink(LazyRestore.socketName, at: directory.number) }

    /// Nobody will come any more: `serve` ends with an error.
    package func cancel() { try? socket.shutdown(2) }

    /// Returns when every process of the restored tree has all its pages, or is gone.
    /// - Parameters:
    ///   - secrets: open encrypted images.
    ///   - remote: where the pages are that the images lack; nil: nowhere else.
    ///   - ahead: whether the images are there already, and are looked into before the restore comes.
    ///   - verifies: whether pages are held against their checksums.
    package func serve(_ images: FileDescriptor, _ secrets: ImageSecrets = .none, remote: (any RemotePages)? = nil, ahead: Bool = false, verifies: Bool, _ log: Log) throws {
        func open() throws -> (PageChain, ImagePageSource) {
            let chain = try PageChain(try ImageDirectory(images, secrets), verifies: verifies)
            return (chain, ImagePageSource(chain))
        }
        let opened = ahead ? try? open() : nil
        if let opened {
            for name in try Files.names(in: ".", at: images.number) where name.hasPrefix("pagemap-") && name.hasSuffix(".img") {
                if let task = UInt32(name.dropFirst(8).dropLast(4)) { _ = try? opened.1.image(of: task) }
            }
        }
        let restorer = try socket.accept()
        let (chain, local) = try opened ?? open()
        let daemon = LazyPages(remote.map { CombinedPageSource(local, $0) } ?? local, missing: { try Self.missing($0, chain, local) }, log)
        try daemon.serve(restorer)
        log.info("\(daemon.transferred) pages given, \(daemon.faulted) of them waited for")
    }

    /// What a restore leaves out.
    static func missing(_ task: UInt32, _ chain: PageChain, _ pages: ImagePageSource) throws -> [Range<UInt64>] {
        try pages.image(of: task).later(in: chain.directories[0].single(.mm, task).vmas)
    }
}

extension PageImage {
    /// Pages that may come later: those of memory without a file that is neither locked nor of huge pages. Ascending, like the mappings.
    package func later(in mappings: [VmaEntry]) -> [Range<UInt64>] {
        var lazy = [Range<UInt64>]()
        var here = mayBeLazy[...], there = elsewhere[...]
        while let range = here.isEmpty || there.first.map({ $0.lowerBound < here.first!.lowerBound }) == true ? there.popFirst() : here.popFirst() {
            if let last = lazy.last, last.upperBound == range.lowerBound { lazy[lazy.count - 1] = last.lowerBound..<range.upperBound } else { lazy.append(range) }
        }
        return MemoryTracker.common(lazy, mappings.filter(\.canBeLazy).map { $0.start..<$0.end })
    }
}
