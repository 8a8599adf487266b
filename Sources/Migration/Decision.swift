import CLinux
import Glibc
import Kinds
import Linux

/// Whether the destination's tree runs: settled once, by whoever comes first, and for good (docs/design/migration.md has the argument).
///
/// A file in a file system in memory, /run, so that it is gone when the machine restarts, as the tree is. Its lock (flock(2)) is held while it
/// changes, and goes with its holder: who gets the lock and reads `releasing` knows that the one who let the tree run died in the middle of that.
package struct Decision {
    /// In post-copy a tree that is `running` becomes `whole`, when all its memory is here, or `lost`, when it was ended without.
    enum State: String { case ready, releasing, running, aborted, whole, lost }
    package enum Answer: String, Sendable { case running, aborted, unknown, whole, lost }
    package static let folder = "/run/stasis/migrations"
    private let id: String
    private let folder: String

    /// The tree is restored and waits. Fails when the source has been told already that it never will run.
    /// - Parameter folder: for tests.
    package init(ready id: String, folder: String = Decision.folder) throws {
        (self.id, self.folder) = (id, folder)
        try Self.locked(id, folder) { (state, file) throws(SyscallError) in
            guard state == nil else { return false }
            try Self.write(.ready, file)
            return true
        }.orThrow("it was settled before that this tree does not run here")
    }

    /// Lets the tree run, unless it was settled that it does not.
    package func release(_ letRun: () -> Void) throws {
        try Self.locked(id, folder) { (state, file) throws(SyscallError) in
            guard state == .ready else { return false }
            try Self.write(.releasing, file)
            letRun()
            // It runs: that this could not be noted down must not be taken for a failure.
            try? Self.write(.running, file)
            return true
        }.orThrow("the source has asked meanwhile, and was told that the tree does not run here")
    }

    /// The tree runs, and its memory has followed it, or never will.
    package func settleMemory(isWhole: Bool) throws {
        try Self.locked(id, folder) { (state, file) throws(SyscallError) in
            guard state == .running else { return false }
            try Self.write(isWhole ? .whole : .lost, file)
            return true
        }.orThrow("it does not run")
    }

    /// It never will run. Has no effect on one that does.
    package func abort() { _ = try? Self.ask(id, folder: folder) }

    /// Nobody will ask any more; or it was aborted and nothing is left of it here, which a new question settles as well.
    package func forget() { try? Files.unlink(folder + "/" + id) }

    /// What became of a migration. One that is not settled is from now on: it will not run.
    package static func ask(_ id: String, folder: String = Decision.folder) throws -> Answer {
        try locked(id, folder) { (state, file) throws(SyscallError) in
            switch state {
            case .running: return .running
            case .whole: return .whole
            case .lost: return .lost
            case .releasing: return .unknown
            case .aborted: return .aborted
            case .ready, nil:
                try write(.aborted, file)
                return .aborted
            }
        }
    }

    /// Whether it has been settled that it does not run.
    package static func isAborted(_ id: String, folder: String = Decision.folder) throws -> Bool {
        try locked(id, folder) { (state, _) throws(SyscallError) in state == .aborted }
    }

    /// Whether decisions can be written down here.
    package static func checkPlace() throws {
        try CheckpointError.about("write to", .file(folder), remedy: "make /run writable for stasis") {
            try makeFolder(folder)
            try Files.checkAccess(folder, writing: true)
        }
    }

    private static func makeFolder(_ folder: String) throws(SyscallError) {
        let parent = String(folder.prefix(upTo: folder.lastIndex(of: "/") ?? folder.endIndex))
        for path in [parent, folder] {
            do throws(SyscallError) { try Files.makeDirectory(path, mode: 0o700) } catch { guard error.errno == Errno(EEXIST) else { throw error } }
        }
    }

    /// - Parameter body: gets the state, nil where there is none yet.
    private static func locked<Value>(_ id: String, _ folder: String, _ body: (State?, FileDescriptor) throws(SyscallError) -> Value) throws -> Value {
        guard isID(id) else { throw CheckpointError("settle", .object("migration \"\(id)\""), "this is no id of a migration") }
        return try CheckpointError.about("settle", .file("\(folder)/\(id)"), remedy: "make /run writable for stasis") {
            try makeFolder(folder)
            let file = try FileDescriptor.open("\(folder)/\(id)", O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
            try Syscall.call("flock", SYS_flock, Int(file.number), Int(LOCK_EX), on: .fd(file.number))
            let text = String(decoding: try file.read(16, at: 0), as: UTF8.self)
            return try body(State(rawValue: text.split(separator: " ").first.map(String.init) ?? ""), file)
        }
    }

    /// One write of sixteen bytes: it is there, or it is not.
    private static func write(_ state: State, _ file: FileDescriptor) throws(SyscallError) {
        try file.write(Array((state.rawValue + String(repeating: " ", count: 16 - state.rawValue.utf8.count)).utf8), at: 0)
    }

    /// As `RunID.make` makes them: it becomes a file's name.
    package static func isID(_ id: String) -> Bool {
        id.utf8.count == 36 && id.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) || $0 == 0x2d }
    }
}

extension Bool {
    fileprivate func orThrow(_ cause: String) throws {
        if !self { throw CheckpointError("let run", .object("the tree"), cause) }
    }
}
