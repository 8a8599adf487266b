import Glibc
import ImageMessages
import Linux

/// Whether the file found at a path is still the one that was saved: type, permissions, size, and the build id of programs and
/// libraries. A program that maps another file than it had dies of it much later; so a difference is an error at once.
enum FileValidation {
    /// What a dump notes of a regular file. `descriptor` may be without read permission (O_PATH, O_WRONLY).
    static func note(_ status: FileStatus, _ descriptor: FileDescriptor, mapped: Bool, in entry: inout RegFileEntry, _ context: DumpContext) {
        guard status.type == S_IFREG, !entry.isPathOnly else { return }
        let access = entry.flags & UInt32(O_ACCMODE)
        if access == UInt32(O_WRONLY) && entry.flags & UInt32(O_APPEND) != 0 { return }
        entry.size = UInt64(bitPattern: status.size)
        if mapped, context.settings.digests, let own = try? FileDescriptor.open(descriptor.procPath, O_RDONLY | OpenFlags.noAccessTime | O_NONBLOCK),
            let digest = try? Digest.sha256(of: own) {
            entry.digest = .init(imageBytes: digest)
        }
        guard context.settings.fileValidation == .buildID, status.size > 64, mapped || status.mode & 0o111 != 0 else { return }
        entry.buildID = context.state(of: BuildIDs.self).words(of: status, at: descriptor.procPath) ?? []
    }

    static func check(_ entry: RegFileEntry, _ path: String, _ status: FileStatus, _ context: RestoreContext) throws {
        func differs(_ what: String, _ remedy: String) -> CheckpointError {
            CheckpointError("restore", .file(entry.name), "it has changed since the dump: File \(entry.name) has \(what)", remedy: remedy)
        }
        if entry.hasMode {
            let compared: UInt32 = context.settings.skipFilePermissions ? S_IFMT : S_IFMT | 0o7777
            if entry.mode & compared != status.mode & compared {
                let sameType = entry.mode & S_IFMT == status.type
                throw differs(
                    "bad mode 0\(String(status.mode, radix: 8)) (expect 0\(String(entry.mode, radix: 8)))",
                    sameType ? "give it its old permissions, or skip this check with --skip-file-rwx-check" : "put the file back as it was")
            }
        }
        if entry.hasSize, status.type == S_IFREG, entry.size != UInt64(bitPattern: status.size) {
            throw differs("bad size \(status.size) (expect \(entry.size))", "put the file back as it was at the dump")
        }
        let outdated = "install the version of the program or library that was running, or compare sizes only with --file-validation filesize"
        if entry.hasDigest, status.type == S_IFREG, context.settings.fileValidation == .buildID {
            let expected = Array(entry.digest)
            if let file = try? FileDescriptor.open(path, O_RDONLY | OpenFlags.noAccessTime | O_NONBLOCK), let found = try? Digest.sha256(of: file), found != expected {
                throw differs("another digest \(Digest.text(found)) (expect \(Digest.text(expected)))", outdated)
            }
        }
        if !entry.buildID.isEmpty, status.type == S_IFREG, context.settings.fileValidation == .buildID {
            guard let found = context.state(of: BuildIDs.self).words(of: status, at: path) else { return }
            if !found.isEmpty && found != entry.buildID {
                throw differs(
                    "bad build-ID \(text(found)) (expect \(text(entry.buildID)))",
                    outdated)
            }
        }
    }

    private static func text(_ words: [UInt32]) -> String {
        words.map { word in
            let digits = String(word.byteSwapped, radix: 16)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }.joined()
    }
}

extension RegFileEntry {
    /// O_PATH: a place, not an open file (open(2)).
    var isPathOnly: Bool { flags & OpenFlags.path != 0 }
}

/// Open flags by the kernel's numbers (include/uapi/asm-generic/fcntl.h), as the images have them.
enum OpenFlags {
    static let path: UInt32 = 0o10000000, noFollow: UInt32 = 0o400000, temporary: UInt32 = 0o20000000, directory: UInt32 = 0o200000
    static let async: UInt32 = 0o20000, nonBlocking: UInt32 = 0o4000
    static let noAccessTime: Int32 = 0o1000000
    /// Flags that act on opening only and would do harm a second time.
    static let once: UInt32 = 0o100 | 0o200 | 0o1000 | temporary  // O_CREAT, O_EXCL, O_TRUNC, __O_TMPFILE

    /// The flags to open an existing file again with.
    static func again(_ flags: UInt32, mode: UInt32?) -> Int32 {
        var flags = flags & ~once & ~async
        if let mode, mode & S_IFMT != S_IFDIR { flags &= ~directory }  // O_TMPFILE includes it
        return Int32(bitPattern: flags) | O_NOCTTY | O_CLOEXEC
    }
}
