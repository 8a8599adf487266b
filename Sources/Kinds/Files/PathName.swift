import Glibc
package import Linux

/// What tells one inode from every other on this machine for as long as it is open.
package struct InodeKey: Hashable, Sendable {
    package let device: UInt64, inode: UInt64
    package init(_ status: FileStatus) { (device, inode) = (status.device, status.inode) }
}

/// Where an open file stands in the file system: by the name it was opened with, or nowhere.
enum PathName: Equatable {
    /// The path leads to this very file.
    case present(String)
    /// The path had led to it, until it was unlinked.
    case deleted(String)
    /// Another file or mount now stands at the path, or nothing, although the file was not unlinked.
    case hidden(String)

    var path: String {
        switch self {
        case .present(let path), .deleted(let path), .hidden(let path): path
        }
    }

    static let deletedMark = " (deleted)"

    /// The kernel appends " (deleted)" to the name of an unlinked file (fs/d_path.c, path_with_deleted), but a file may also be
    /// called so: what decides is whether the path leads to this inode.
    /// - Parameter link: readlink of /proc/PID/fd/N or the like.
    init?(link: String, of status: FileStatus) {
        guard link.hasPrefix("/") else { return nil }
        let key = InodeKey(status)
        func leads(_ path: String) -> Bool { (try? Files.status(path, followLinks: false)).map { InodeKey($0) == key } ?? false }
        if leads(link) { self = .present(link); return }
        guard link.hasSuffix(Self.deletedMark) else { self = .hidden(link); return }
        let path = String(link.dropLast(Self.deletedMark.count))
        self = leads(path) ? .present(path) : .deleted(path)
    }

    /// The directory a path names its last component in, and that component.
    static func split(_ path: String) -> (directory: String, last: String) {
        guard let slash = path.lastIndex(of: "/") else { return (".", path) }
        let directory = path[..<slash]
        return (directory.isEmpty ? "/" : String(directory), String(path[path.index(after: slash)...]))
    }

    /// The process number of a path below /proc/<number>.
    static func process(_ path: String) -> Int32? {
        let parts = path.split(separator: "/", maxSplits: 2)
        guard parts.count >= 2, parts[0] == "proc" else { return nil }
        return Int32(parts[1]).flatMap { $0 > 0 ? $0 : nil }
    }
}
