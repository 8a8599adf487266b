import Glibc
import ImageMessages
import Linux

/// The name of a unix socket: abstract, or a file that bind(2) makes.
package enum UnixName {
    /// As people write it: "@name" for an abstract one.
    static func shown(_ name: [UInt8]) -> String {
        name.first == 0 ? "@" + String(decoding: name.dropFirst(), as: UTF8.self) : path(name)
    }
    /// The path in sun_path, which may or may not end with a zero byte.
    static func path(_ name: [UInt8]) -> String { String(decoding: name.prefix { $0 != 0 }, as: UTF8.self) }

    /// Fills in what belongs to a name that is a path: the file's owner and mode, the directory a relative name starts from, and
    /// whether the path no longer leads to the socket. SIOCUNIXFILE gives the file itself, deleted or renamed as it may be.
    static func dump(_ name: [UInt8], _ file: OpenFile, into entry: inout UnixSkEntry) throws {
        try CheckpointError.about("dump", file.subject) {
            let node = FileDescriptor(owning: Int32(try file.descriptor.ioctl("SIOCUNIXFILE", 0x89e0)))
            let status = try node.status()
            entry.filePerms.mode = status.mode
            entry.filePerms.uid = status.uid
            entry.filePerms.gid = status.gid
            let path = path(name), root = "/proc/\(file.process)/root"
            func leadsHere(_ path: String) -> Bool {
                guard let found = try? Files.status(root + path) else { return false }
                return found.inode == status.inode && found.device == status.device
            }
            if path.hasPrefix("/") {
                if !leadsHere(path) { entry.deleted = true }
                return
            }
            var candidates = [String]()
            var link = try Files.link(node.procPath)
            if status.links == 0, link.hasSuffix(" (deleted)") { link.removeLast(10) }
            if link.hasSuffix("/" + path) {
                let directory = String(link.dropLast(path.utf8.count + 1))
                candidates.append(directory.isEmpty ? "/" : directory)
            }
            if let current = try? Files.link("/proc/\(file.process)/cwd") { candidates.append(current) }
            let directory = candidates.first { leadsHere($0 + "/" + path) }
            if directory == nil { entry.deleted = true }
            entry.nameDir = directory ?? candidates.first ?? "/"
        }
    }

    /// Gives `socket` the name of `entry`, and says how to connect to it, whatever happens to its path: through a descriptor of its
    /// file (/proc/self/fd/N, a link that connect(2) follows to the inode).
    /// - Returns: the address, and the descriptor that must stay open for it.
    static func bind(_ socket: FileDescriptor, as entry: UnixSkEntry, _ context: RestoreContext) throws -> (SocketAddress, FileDescriptor?) {
        let name = Array(entry.name)
        guard let first = name.first, first != 0 else {
            try CheckpointError.about("restore", .unixSocket(entry)) {
                do throws(SyscallError) { try socket.bind(SocketAddress(unix: name)) } catch {
                    if error.errno.rawValue == EADDRINUSE { throw inUse(entry) }
                    throw error
                }
            }
            return (SocketAddress(unix: name), nil)
        }
        return try CheckpointError.about("restore", .unixSocket(entry)) {
            try inDirectory(entry.hasNameDir ? entry.nameDir : nil, create: entry.deleted) {
                let path = path(name)
                let aside = path + ".stasis-\(entry.ino)"
                var moved = false
                var made = [String]()
                if entry.deleted {
                    made = try makeParents(of: path)
                    moved = (try? Files.rename(path, to: aside)) != nil
                } else if try isTaken(path, entry) { try Files.unlink(path) }
                defer {
                    if moved { _ = try? Files.rename(aside, to: path) }
                    for directory in made.reversed() { _ = try? Files.unlink(directory, flags: AT_REMOVEDIR) }
                }
                try socket.bind(SocketAddress(unix: name))
                let node = try FileDescriptor.open(path, O_PATH_value | O_NOFOLLOW)
                if entry.hasFilePerms {
                    try Files.setOwner(node.procPath, uid: entry.filePerms.uid, gid: entry.filePerms.gid)
                    try Files.setMode(node.procPath, entry.filePerms.mode & 0o7777)
                }
                if entry.deleted { try Files.unlink(path) } else { removeIfRestoreFails(node, path, context) }
                return (SocketAddress(unix: Array(node.procPath.utf8) + [0]), node)
            }
        }
    }

    /// Takes an old socket's file out of the way of a name that a plugin will give.
    static func makeWay(for entry: UnixSkEntry) throws {
        guard let first = entry.name.first, first != 0, !entry.deleted else { return }
        try inDirectory(entry.hasNameDir ? entry.nameDir : nil) {
            let path = path(Array(entry.name))
            if try isTaken(path, entry) { try Files.unlink(path) }
        }
    }

    private static func inUse(_ entry: UnixSkEntry) -> CheckpointError {
        CheckpointError("restore", .unixSocket(entry), "its name is in use", remedy: "end the program that holds it", errno: Errno(EADDRINUSE))
    }

    /// Whether an old socket's file is in the way; any other file is an error, and so is a directory that is missing.
    private static func isTaken(_ path: String, _ entry: UnixSkEntry) throws -> Bool {
        let directory = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        _ = try Files.status(directory)
        guard let there = try? Files.status(path, followLinks: false) else { return false }
        if there.type == S_IFSOCK { return true }
        throw CheckpointError("restore", .unixSocket(entry), "\(path) exists and is not a socket", remedy: "move that file out of the way")
    }

    /// What `bind` would refuse.
    static func check(_ entry: UnixSkEntry) throws {
        let name = Array(entry.name)
        guard let first = name.first, !entry.deleted else { return }
        if first == 0 {
            let shown = shown(name)
            let lines = ((try? Files.text("/proc/net/unix")) ?? "").split(separator: "\n")
            if lines.contains(where: { $0.split(separator: " ", maxSplits: 7).last.map(String.init) == shown }) { throw inUse(entry) }
            return
        }
        try CheckpointError.about("restore", .unixSocket(entry)) {
            try inDirectory(entry.hasNameDir ? entry.nameDir : nil) { _ = try isTaken(path(name), entry) }
        }
    }

    /// After a restore that failed nothing listens at the path, so the file goes.
    private static func removeIfRestoreFails(_ node: FileDescriptor, _ path: String, _ context: RestoreContext) {
        context.undo.append {
            guard let place = try? Files.link(node.procPath) else { return }
            _ = try? Files.unlink(place)
        }
    }

    /// Makes the directories that a deleted name's path needs; returns those it made.
    private static func makeParents(of path: String) throws -> [String] {
        var made = [String](), end = path.startIndex
        while let slash = path[end...].firstIndex(of: "/") {
            let directory = String(path[..<slash])
            if !directory.isEmpty && (try? Files.status(directory)) == nil {
                try Files.makeDirectory(directory)
                made.append(directory)
            }
            end = path.index(after: slash)
        }
        return made
    }

    /// Runs `body` with `directory` as our working directory, which is the only way to bind a relative name.
    static func inDirectory<Value>(_ directory: String?, create: Bool = false, _ body: () throws -> Value) throws -> Value {
        guard let directory else { return try body() }
        let made = create ? try makeParents(of: directory + "/") : []
        let before = try FileDescriptor.open(".", O_PATH_value | O_DIRECTORY)
        defer {
            _ = try? Files.enter(before)
            for one in made.reversed() { _ = try? Files.unlink(one, flags: AT_REMOVEDIR) }
        }
        try Files.enter(try FileDescriptor.open(directory, O_PATH_value | O_DIRECTORY))
        return try body()
    }
    /// O_PATH, which Swift's Glibc lacks.
    private static let O_PATH_value: Int32 = 0o10000000
}
