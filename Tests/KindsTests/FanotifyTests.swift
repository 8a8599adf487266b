import Foundation
import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("fanotify") struct FanotifyTests {
    private func mark(_ group: FileDescriptor, _ flags: Int, _ mask: Int, _ path: String) throws {
        try Syscall.call("fanotify_mark", 301, path: path, at: 4, Int(group.number), flags, mask, Int(AT_FDCWD))
    }
    private func marks(_ group: FileDescriptor) throws -> [String] {
        try Proc.descriptorInfo(group.number, of: .current).lines.filter { $0.key.hasPrefix("fanotify") }.map { "\($0.key):\($0.value)" }
    }

    @Test("marks of inodes and mounts come back in their order, with ignored masks")
    func marks() throws {
        let scratch = try Scratch()
        let group = FileDescriptor(owning: Int32(try Syscall.call("fanotify_init", 300, 0x12, 0x8000)))
        try mark(group, 1, 2, try scratch.file("f"))
        try mark(group, 1, 0x800_0002, scratch.path)
        try mark(group, 0x11, 8, "/dev/shm")
        try mark(group, 0x71, 2, "/dev/shm")
        let trip = try DumpAndRestore()
        let entry = try trip.save(group)
        #expect(entry.ffy.mark.count == 3)
        let after = try trip.restoreAll().requireDescriptor(of: entry.id)
        #expect(try marks(after) == marks(group))
        #expect(try after.control(F_GETFL) == group.control(F_GETFL))
    }

    @Test("a group that decides on opening is refused")
    func permissions() throws {
        let scratch = try Scratch()
        let group = FileDescriptor(owning: Int32(try Syscall.call("fanotify_init", 300, 0x4, 0)))
        try mark(group, 1, 0x10000, try scratch.file("f"))
        let trip = try DumpAndRestore()
        #expect(throws: CheckpointError.self) { try trip.save(group) }
    }
}
