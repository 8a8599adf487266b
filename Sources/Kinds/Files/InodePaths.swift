import CLinux
import Glibc
import ImageMessages
import Linux

/// Where the inodes stand that are watched but whose handles lead nowhere, as on overlayfs: found by walking directories, those of --irmap-scan-path
/// first, then those in which programs mostly watch something. What is found is verified by a watch of our own, of which the kernel
/// must tell the same.
final class InodePaths: DumpState {
    /// Where daemons watch their settings, spools and devices.
    private static let usual = ["/etc", "/var/spool", "/run", "/var/lib", "/usr/share", "/usr/lib"]
    /// What an inotify line of fdinfo says of an inode, and what a mark of fanotify says of it.
    private static let identity: [Substring] = ["ino", "sdev", "fhandle-bytes", "fhandle-type", "f_handle"]

    /// By the kernel's number of a device: paths by inode, in the order of the walk.
    private var found: [UInt32: [UInt64: [String]]] = [:]

    /// The handle in a line of fdinfo, with the path it leads to: also the former one of a deleted file. nil: nothing leads there.
    static func entry(_ words: [Substring: Substring], device: UInt32, inode: UInt64, _ context: DumpContext) throws -> FhEntry? {
        func walk() throws -> FhEntry? {
            guard let path = try context.state(of: InodePaths.self).path(words, device: device, inode: inode, context) else { return nil }
            // Some file systems tell no handle at all.
            var entry = FileHandles.parse(words) ?? FhEntry()
            if !entry.hasBytes { (entry.bytes, entry.type, entry.handle) = (0, 0, [UInt64](repeating: 0, count: 16)) }
            entry.path = path
            return entry
        }
        if context.settings.forceIrmap, let entry = try walk() { return entry }
        return try FileHandles.entry(words, device: device, inode: inode) ?? (context.settings.forceIrmap ? nil : walk())
    }

    private func path(_ words: [Substring: Substring], device: UInt32, inode: UInt64, _ context: DumpContext) throws -> String? {
        let began = Clock.monotonic()
        defer { context.statistics.irmapResolve += UInt32(clamping: (Clock.monotonic() - began) / 1000) }
        if found[device] == nil { found[device] = Self.walk(device, from: context.settings.irmapScanPaths + Self.usual, context.log) }
        return try found[device]?[inode]?.first { try Self.leads($0, to: words) }
    }

    /// All names on one device below `starts`, without what is mounted over them.
    private static func walk(_ device: UInt32, from starts: [String], _ log: Log) -> [UInt64: [String]] {
        let mounts = FileHandles.mounts(of: device)
        var paths: [UInt64: [String]] = [:], seen = Set<InodeKey>()
        func visit(_ path: String, _ status: FileStatus) {
            var waiting = [(path: path, status: status)]
            while let (path, status) = waiting.popLast() {
                paths[status.inode, default: []].append(path)
                guard status.type == S_IFDIR, seen.insert(InodeKey(status)).inserted, let names = try? Files.names(in: path) else { continue }
                for name in names {
                    let below = path == "/" ? "/\(name)" : "\(path)/\(name)"
                    guard let its = try? Files.status(below, followLinks: false), its.type != S_IFDIR || its.device == status.device else { continue }
                    waiting.append((below, its))
                }
            }
        }
        for start in starts {
            guard let directory = try? FileDescriptor.open(start, O_RDONLY | O_DIRECTORY | O_NONBLOCK), let path = try? Files.link(directory.procPath) else {
                if !usual.contains(start) { log.warn("--irmap-scan-path \(start) can't be opened; it has to be absolute") }
                continue
            }
            func holds(_ outer: String, _ inner: String) -> Bool { outer == "/" || inner == outer || inner.hasPrefix(outer + "/") }
            // From here, where it is of the device, and from each mount of the device below.
            let inside = mounts.filter { holds(path, $0) && $0 != path }
            for top in (mounts.contains { holds($0, path) } ? [path] : []) + inside {
                if let status = try? Files.status(top, followLinks: false) { visit(top, status) }
            }
        }
        return paths
    }

    /// Whether the kernel tells of a watch on this path what it tells of the one that was met.
    private static func leads(_ path: String, to words: [Substring: Substring]) throws -> Bool {
        let inotify = FileDescriptor(owning: Int32(try Syscall.call("inotify_init1", SYS_inotify_init1, Int(O_CLOEXEC))))
        let dontFollow = 0x0200_0000, deleted = 0x400  // IN_DONT_FOLLOW, IN_DELETE_SELF
        guard (try? Syscall.call("inotify_add_watch", SYS_inotify_add_watch, path: path, at: 1, Int(inotify.number), deleted | dontFollow)) != nil,
            let line = try Proc.descriptorInfo(inotify.number, of: .current).all("inotify wd").first else { return false }
        let own = FileHandles.words("wd:\(line)")
        return identity.allSatisfy { own[$0] == words[$0] }
    }
}
