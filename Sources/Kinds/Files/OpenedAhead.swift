import Glibc
import ImageMessages
import Linux
import Synchronization

/// Regular files that a second thread opens while the conductor makes processes and the other kinds. It goes from the last to the first, the conductor afterwards from
/// the first to the last, each for itself where the other has not been. A file that can't be opened is left to the conductor, which says why.
final class OpenedAhead: DumpState, Sendable {
    struct File: Sendable {
        /// What stood at the path, and was opened.
        let status: FileStatus, descriptor: FileDescriptor
    }
    private struct State {
        var files: [Int: File] = [:]
        /// The conductor has come to this one, and needs none before it.
        var place = 0
    }
    private let state = Mutex(State())
    private let worker = Workers(1)
    /// Fewer are opened in the time that a thread takes to begin.
    private static let fewest = 100

    /// Begins with the last of these entries, whose indices are their places. The conductor must not be confined to one CPU yet.
    func begin(_ entries: [FileEntry]) {
        let paths = entries.enumerated().filter { Self.isPlain($1.reg) }.map { (place: $0, path: $1.reg.name, flags: $1.reg.flags) }
        guard paths.count >= Self.fewest else { return }
        worker.run { [self] in
            for (place, path, flags) in paths.reversed() {
                if state.withLock({ $0.place >= place }) { return }
                guard let status = try? Files.status(path), status.type == S_IFREG, let descriptor = try? PathFiles.open(path, status.mode, flags) else { continue }
                state.withLock { if $0.place < place { $0.files[place] = File(status: status, descriptor: descriptor) } }
            }
        }
    }

    /// The file at that place, or nil where it is not open. The places are asked for in their order.
    func take(_ place: Int) -> File? {
        state.withLock {
            $0.place = place
            return $0.files.removeValue(forKey: place)
        }
    }

    /// When all have been taken.
    func finish() throws { try worker.finish() }

    /// What exists under its path whatever else is restored.
    private static func isPlain(_ entry: RegFileEntry) -> Bool {
        entry.hasMode && entry.mode & S_IFMT == S_IFREG && !entry.ext && entry.name.hasPrefix("/") && !entry.name.hasPrefix("/proc/")
    }
}
