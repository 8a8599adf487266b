import CLinux
import Glibc
import ImageMessages
import Linux

/// The kernel's handles of inodes (open_by_handle_at(2)), by which inotify and fanotify tell what they watch.
enum FileHandles {
    /// "ino:1 sdev:1b mask:20" as a dictionary.
    static func words(_ line: String) -> [Substring: Substring] {
        var words: [Substring: Substring] = [:]
        for word in line.split(separator: " ") {
            let parts = word.split(separator: ":", maxSplits: 1)
            if parts.count == 2 { words[parts[0]] = parts[1] }
        }
        return words
    }

    /// The handle in a line of fdinfo, with the path it leads to: also the former one of a deleted file.
    static func entry(_ words: [Substring: Substring], device: UInt32, inode: UInt64) -> FhEntry? {
        guard var handle = parse(words), let path = path(of: handle, device: device, inode: inode) else { return nil }
        let isDeleted = path.hasSuffix(PathName.deletedMark) && (try? Files.status(path, followLinks: false)) == nil
        handle.path = isDeleted ? String(path.dropLast(PathName.deletedMark.count)) : path
        return handle
    }

    /// A mount of ours by its id: device, in the kernel's form, and mount point.
    static func mount(id: UInt32) -> (device: UInt32, path: String)? {
        for line in ((try? Files.text("/proc/self/mountinfo")) ?? "").split(separator: "\n") {
            let fields = line.split(separator: " ", maxSplits: 5)
            guard fields.count >= 5, fields[0] == "\(id)" else { continue }
            let device = fields[2].split(separator: ":").compactMap { UInt32($0) }
            return device.count == 2 ? (device[0] << 20 | device[1], unescape(fields[4])) : nil
        }
        return nil
    }

    /// From fdinfo: "fhandle-bytes:8 fhandle-type:1 f_handle:9ddf030000000000", all hexadecimal (fs/notify/fdinfo.c).
    static func parse(_ words: [Substring: Substring]) -> FhEntry? {
        guard let bytes = words["fhandle-bytes"].flatMap({ UInt32($0, radix: 16) }), let type = words["fhandle-type"].flatMap({ UInt32($0, radix: 16) }),
            let text = words["f_handle"] else { return nil }
        var entry = FhEntry()
        (entry.bytes, entry.type) = (bytes, type)
        entry.handle = [UInt64](repeating: 0, count: 16)
        let digits = text.utf8.compactMap { digit -> UInt64? in
            switch digit {
            case 48...57: UInt64(digit - 48)
            case 97...102: UInt64(digit - 87)
            default: nil
            }
        }
        for index in 0..<min(digits.count / 2, 128) { entry.handle[index / 8] |= (digits[2 * index] << 4 | digits[2 * index + 1]) << UInt64(8 * (index % 8)) }
        return entry
    }

    /// Where an inode of this device stands: found through its handle, below any mount of the device.
    /// - Returns: the path; with " (deleted)" behind it when it has none any more. nil when no mount knows it.
    static func path(of entry: FhEntry, device: UInt32, inode: UInt64) -> String? {
        var handle: [UInt8] = (0..<4).map { UInt8(truncatingIfNeeded: entry.bytes >> (8 * $0)) } + (0..<4).map { UInt8(truncatingIfNeeded: entry.type >> (8 * $0)) }
        guard entry.bytes <= 128 else { return nil }
        for index in 0..<Int(entry.bytes) { handle.append(index / 8 < entry.handle.count ? UInt8(truncatingIfNeeded: entry.handle[index / 8] >> UInt64(8 * (index % 8))) : 0) }
        var deleted: String?
        for mount in mounts(of: device) {
            // O_DIRECTORY: a file may be mounted, too, but not watched from there.
            guard let root = try? FileDescriptor.open(mount, O_RDONLY | O_DIRECTORY | O_NONBLOCK) else { continue }
            guard let number = try? Syscall.call("open_by_handle_at", SYS_open_by_handle_at, bytes: &handle, at: 1, Int(root.number), Int(Int32(bitPattern: OpenFlags.path))) else { continue }
            let found = FileDescriptor(owning: Int32(number))
            guard let status = try? found.status(), status.inode == inode, let link = try? Files.link(found.procPath) else { continue }
            switch PathName(link: link, of: status) {
            case .present(let path): return path
            case .deleted: deleted = link
            case .hidden, nil: continue
            }
        }
        return deleted
    }

    /// Mount points of a device, by proc(5), /proc/PID/mountinfo: the third field is major:minor, the fifth the mount point.
    static func mounts(of device: UInt32) -> [String] {
        let wanted = "\(device >> 20):\(device & 0xfffff)"
        return ((try? Files.text("/proc/self/mountinfo")) ?? "").split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ", maxSplits: 5)
            guard fields.count >= 5, fields[2] == wanted else { return nil }
            return unescape(fields[4])
        }
    }

    /// mountinfo writes space, tab, newline and backslash as \040 and the like.
    private static func unescape(_ text: Substring) -> String {
        guard text.contains("\\") else { return String(text) }
        var bytes = [UInt8](), rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == 92, rest.count >= 3, rest.prefix(3).allSatisfy({ $0 >= 48 && $0 <= 55 }) {
                bytes.append(rest.prefix(3).reduce(0) { $0 &* 8 &+ ($1 - 48) })
                rest = rest.dropFirst(3)
            } else { bytes.append(byte) }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
