import CLinux
import Foundation
import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("files of dead processes") struct DeadProcessTests {
    @Test("a file and a directory below /proc of a process that is gone come back, and the process does not")
    func restored() throws {
        let child = Process()
        child.executableURL = URL(fileURLWithPath: "/bin/sleep")
        child.arguments = ["60"]
        try child.run()
        let pid = child.processIdentifier
        let before = [try FileDescriptor.open("/proc/\(pid)/status", O_RDONLY), try FileDescriptor.open("/proc/\(pid)", O_RDONLY | O_DIRECTORY)]
        kill(pid, SIGKILL)
        child.waitUntilExit()
        let trip = try DumpAndRestore()
        let entries = try before.map { try trip.save($0) }
        #expect(entries.map(\.reg.name) == ["/proc/\(pid)/status", "/proc/\(pid)"])
        let context = try trip.restoreAll()
        let after = try entries.map { try context.requireDescriptor(of: $0.id) }
        #expect(try after.map { try $0.status().mode } == before.map { try $0.status().mode })
        #expect(throws: SyscallError("read", .fd(after[0].number), ESRCH)) { try after[0].read(1) }
        #expect(kill(pid, 0) == -1)
    }
}
