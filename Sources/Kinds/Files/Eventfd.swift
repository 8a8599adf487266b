import CLinux
import Glibc
package import ImageMessages
import Linux

/// eventfd(2): a counter. Format README, 11.7; semaphore mode is our own field.
package enum Eventfd: OpenFileKind {
    package static var type: FdTypes { .eventfd }

    package static func claims(_ file: OpenFile) -> Bool { isOne(file.link) }
    /// By the link of /proc/PID/fd.
    package static func isOne(_ link: String) -> Bool { link == "anon_inode:[eventfd]" }

    /// fdinfo says "eventfd-count: <hexadecimal>", and since Linux 6.5 "eventfd-semaphore: <0 or 1>" (fs/eventfd.c, eventfd_show_fdinfo).
    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.eventfd, file.id)
        let info = try file.info()
        guard let count = info.hexadecimal("eventfd-count") else { throw CheckpointError("dump", file.subject, "its fdinfo has no eventfd-count") }
        (entry.efd.id, entry.efd.flags, entry.efd.counter) = (file.id, file.flags, count)
        if try info["eventfd-semaphore"].map({ $0 == "1" }) ?? (context.savesMemory && isSemaphore(file.descriptor, count)) { entry.efd.semaphore = true }
        entry.efd.fown = try file.owner()
        return entry
    }

    /// Kernels before 6.5 don't say, and it is tried: a semaphore gives 1 at a read and keeps the rest (eventfd(2)). The tree stands still, and
    /// what is taken is put back at once.
    private static func isSemaphore(_ file: FileDescriptor, _ count: UInt64) throws -> Bool {
        let raised: UInt64 = count < 2 ? 2 : 0
        if raised > 0 { try file.write(little64(raised)) }
        let taken: UInt64 = try file.read(8).word(at: 0), left = count + raised - taken
        if left < count { try file.write(little64(count - left)) }
        for _ in 0..<(left > count ? left - count : 0) { _ = try file.read(8) }
        return taken == 1
    }

    /// eventfd2(2) takes 32 bits of a 64-bit count, so a larger one goes in by write(2): at most 2^64 - 2.
    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            try CheckpointError.about("restore", .object("eventfd, file id \(entry.id)")) {
                guard entry.hasEfd else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) has no eventfd entry") }
                let count = min(entry.efd.counter, UInt64.max - 1), fits = count <= UInt32.max
                let flags = Int(O_CLOEXEC) | Int(entry.efd.flags & StatusFlags.nonblocking) | (entry.efd.semaphore ? 1 : 0)
                let made = FileDescriptor(owning: Int32(try Syscall.call("eventfd2", SYS_eventfd2, fits ? Int(count) : 0, flags)))
                if !fits { try made.write((0..<8).map { UInt8(truncatingIfNeeded: count >> (8 * $0)) }) }
                // eventfd2(2) has set what there usually is.
                if entry.efd.flags & StatusFlags.changeable & ~StatusFlags.nonblocking != 0 { try made.setStatusFlags(entry.efd.flags) }
                try FileOwner.restore(entry.efd.fown, on: made)
                context.made(entry.id, made)
            }
        }
    }
}
