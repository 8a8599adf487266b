import Foundation
import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("inotify") struct InotifyTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    private func watch(_ inotify: FileDescriptor, _ path: String, _ mask: UInt32) throws -> Int {
        try Syscall.call("inotify_add_watch", 254, path: path, at: 1, Int(inotify.number), Int(mask))
    }
    private func watches(_ inotify: FileDescriptor) throws -> [String] { try Proc.descriptorInfo(inotify.number, of: .current).all("inotify wd").sorted() }

    @Test("watches come back with their numbers and masks, without events of their own making")
    func numbers() throws {
        let inotify = FileDescriptor(owning: inotify_init1(Int32(O_CLOEXEC | O_NONBLOCK)))
        let file = try scratch.file("f"), gone = try scratch.file("gone")
        for _ in 0..<20 { try inotify.control(F_GETFD); _ = inotify_rm_watch(inotify.number, Int32(try watch(inotify, "/", 1))) }
        let numbers = [try watch(inotify, file, 0x8000_0002), try watch(inotify, scratch.path, 0x400_0300), try watch(inotify, gone, 2)]
        let held = try FileDescriptor.open(gone, O_RDWR)
        unsafe unlink(gone)
        _ = try inotify.read(65536)
        let before = try watches(inotify)
        #expect(before.count == 3)
        let trip = try DumpAndRestore()
        let entry = try trip.save(inotify)
        #expect(entry.ify.wd.map { $0.fHandle.path }.sorted() == [scratch.path, file, gone].sorted())
        let ghost = try trip.save(held)
        let context = try trip.restoreAll()
        let after = try context.requireDescriptor(of: entry.id)
        #expect(try after.read(1000, orNothing: true).isEmpty)
        let found = try watches(after)
        #expect(found.prefix(2) == before.prefix(2))
        #expect(found.last?.hasPrefix("\(String(numbers[2], radix: 16)) ") == true)
        _ = try scratch.file("new")
        #expect(try after.read(1000).first == UInt8(numbers[1]))
        try context.requireDescriptor(of: ghost.id).write([1])
        #expect(try after.read(1000).first == UInt8(numbers[2]))
    }
}
