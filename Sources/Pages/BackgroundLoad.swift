import CLinux
import Glibc
import ImageMessages
package import Images
import Kinds
package import Linux

/// `restore --background-load`: the tree runs at once, and gets its memory from the local images behind: where it is touched first, then what
/// it touched first in an earlier run (working-set-PID.img), then the rest. A small process of its own does that, for the restore ends.
///
/// What it has to say is in background-load.log in the work directory: who called the restore may wait for the end of our output.
package enum BackgroundLoad {
    /// The word that makes `stasis` a loader.
    package static let command = "load-pages"
    private static let log = "background-load.log"

    /// Starts it, for one restore.
    /// - Parameters:
    ///   - secrets: open encrypted images.
    ///   - verifies: whether pages are held against their checksums.
    package static func start(_ images: FileDescriptor, _ secrets: ImageSecrets, work: FileDescriptor, verifies: Bool) throws -> LazyRestore {
        try CheckpointError.about("start", .object("the process that loads the memory")) {
            let log = try FileDescriptor.open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, mode: 0o600, at: work.number)
            let (ours, its) = try FileDescriptor.socketPair(1, 1 /* AF_UNIX, SOCK_STREAM */)
            _ = try Program.start("/proc/self/exe", [command], output: log, inNewSession: true, input: its)
            try ours.send([verifies ? 1 : 0], descriptors: [images])
            try ours.write(little32(UInt32(secrets.bytes.count)) + secrets.bytes)
            return LazyRestore(through: ours)
        }
    }

    /// The loader itself: what `stasis load-pages` runs, with its starter's socket as standard input. Answers the exit status.
    package static func run() -> Int32 {
        let starter = FileDescriptor(owning: STDIN_FILENO), log = Log(level: .info)
        Program.standAlone(as: "stasis-loader")
        do {
            guard let message = try starter.receive(room: 1, flags: 0), let images = message.descriptors.first else { return 1 }
            let connection = PageConnection(starter)
            let secrets = try ImageSecrets(bytes: connection.expect(Int(try connection.expect(4).word(UInt32.self, at: 0))))
            let chain = try PageChain(try ImageDirectory(images, secrets), verifies: message.bytes == [1])
            let pages = ImagePageSource(chain)
            let daemon = LazyPages(pages, missing: { try LazyPagesListener.missing($0, chain, pages) }, log)
            daemon.first = { WorkingSet.read(of: $0, in: chain.directories[0]) }
            try daemon.serve(starter)
            log.info("\(daemon.transferred) pages given, \(daemon.faulted) of them waited for")
            WorkingSet.write(daemon.touched, in: chain.directories[0])
            return 0
        } catch {
            log.error("\(error)")
            return 1
        }
    }
}

/// What a restored process touched first, in the order in which it did: working-set-PID.img, a pagemap of the addresses of the images.
enum WorkingSet {
    /// More are no set that is worth an order.
    static let most = 1 << 16

    static func read(of task: UInt32, in directory: ImageDirectory) -> [Range<UInt64>] {
        guard directory.exists(ImageFile.workingSet.name(task)), let entries = try? directory.all(.workingSet, task) else { return [] }
        return entries.filter { $0.vaddr % 4096 == 0 && $0.nrPages > 0 && $0.nrPages <= most && $0.vaddr < 1 << 56 }.map { $0.vaddr..<($0.vaddr + $0.nrPages * 4096) }
    }

    /// An image directory that can't be written to has none.
    static func write(_ touched: [UInt32: [Range<UInt64>]], in directory: ImageDirectory) {
        guard let seal = try? directory.sealForMore() as ImageSeal?? else { return }
        for (task, ranges) in touched {
            guard let writer = try? ImageWriter(directory: directory.descriptor, name: ImageFile.workingSet.name(task), seal) else { continue }
            for range in ranges.prefix(most) {
                var entry = PagemapEntry()
                (entry.vaddr, entry.compatNrPages, entry.nrPages) = (range.lowerBound, 0, UInt64(range.count) / 4096)
                try? writer.append(entry)
            }
            try? writer.finish(sync: false)
        }
    }
}
