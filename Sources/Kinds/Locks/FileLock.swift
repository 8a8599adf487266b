package import ImageMessages

/// A lock on a file: of a process (fcntl(2), POSIX), of an open file (flock(2), OFD), or a lease (fcntl(2), F_SETLEASE).
package struct FileLock: Equatable, Hashable, Sendable {
    package enum Kind: UInt32, Sendable { case posix = 1, flock = 2, openFile = 4, lease = 8 }
    package enum Access: UInt32, Sendable {
        case read = 0, write = 1
        /// Of a lease that is being broken until nothing is left.
        case none = 2
    }
    package var kind: Kind, access: Access
    /// Somebody opens the file and waits for the holder to give the lease back; `access` is what the holder may keep.
    package var breaking = false
    package var start: UInt64 = 0
    /// 0: to the end of the file, however it grows.
    package var length: UInt64 = 0

    private static let breakingBit: UInt32 = 4, mandatoryBits: UInt32 = 32 | 64 | 128

    package init(_ kind: Kind, _ access: Access, start: UInt64 = 0, length: UInt64 = 0, breaking: Bool = false) {
        (self.kind, self.access, self.start, self.length, self.breaking) = (kind, access, start, length, breaking)
    }

    /// "1: POSIX  ADVISORY  WRITE 4711 00:2d:12 0 EOF", what fdinfo says behind "lock:" (fs/locks.c, lock_get_status). Nil for
    /// words not known here, such as the delegations of an NFS server.
    package init?(parsing line: String) {
        let words = line.split(separator: " ", omittingEmptySubsequences: true)
        guard words.count >= 8, let start = UInt64(words[6]) else { return nil }
        switch words[1] {
        case "POSIX": kind = .posix
        case "FLOCK": kind = .flock
        case "OFDLCK": kind = .openFile
        case "LEASE": kind = .lease
        default: return nil
        }
        switch words[3] {
        case "READ": access = .read
        case "WRITE": access = .write
        case "UNLCK": access = .none
        default: return nil
        }
        breaking = words[2] == "BREAKING"
        self.start = start
        if words[7] != "EOF" {
            guard let last = UInt64(words[7]), last >= start, last < UInt64.max else { return nil }
            length = last - start + 1
        }
        if kind != .lease && access == .none { return nil }
    }

    /// Format README 14.1.
    package init?(_ entry: FileLockEntry) {
        guard let kind = Kind(rawValue: entry.flag), let access = Access(rawValue: entry.type & 3), entry.start >= 0, entry.len >= 0 else { return nil }
        if entry.type & ~(3 | Self.breakingBit | Self.mandatoryBits) != 0 || access == .none && kind != .lease { return nil }
        self.init(kind, access, start: UInt64(entry.start), length: UInt64(entry.len), breaking: entry.type & Self.breakingBit != 0)
    }

    package func entry(process: Int32, descriptor: Int32) -> FileLockEntry {
        var entry = FileLockEntry()
        (entry.flag, entry.type, entry.pid, entry.fd) = (kind.rawValue, access.rawValue | (breaking ? Self.breakingBit : 0), process, descriptor)
        (entry.start, entry.len) = (Int64(clamping: start), Int64(clamping: length))
        return entry
    }

    package var words: String {
        let what = switch kind {
        case .posix: "a POSIX lock"
        case .flock: "a lock by flock(2)"
        case .openFile: "an open file description lock"
        case .lease: "a lease"
        }
        let range = kind == .posix || kind == .openFile ? " from byte \(start)" + (length == 0 ? "" : ", \(length) bytes") : ""
        return "\(what) (\(access)\(breaking ? ", being broken" : "")\(range))"
    }
}

extension FileLock {
    /// Whether two holders can't have both: flock(2)'s locks and those by range do not see each other.
    func conflicts(with other: FileLock) -> Bool {
        guard (kind == .flock) == (other.kind == .flock), other.kind != .lease, access == .write || other.access == .write else { return false }
        func end(_ lock: FileLock) -> UInt64 { lock.length == 0 ? .max : lock.start &+ lock.length }
        return start < end(other) && other.start < end(self)
    }
}
