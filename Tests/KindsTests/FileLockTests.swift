import CLinux
import Glibc
import ImageMessages
import Images
@testable import Kinds
import Linux
import Testing

/// Locks of this process, as the kernel shows them, to images and back to values. Taking them again in a task is ZDTM's to test.
struct FileLockTests {
    @Test(arguments: [
        ("1: POSIX  ADVISORY  WRITE 4711 00:2d:12 10 19", FileLock(.posix, .write, start: 10, length: 10)),
        ("1: POSIX  ADVISORY  READ 4711 00:2d:12 0 EOF", FileLock(.posix, .read)),
        ("2: FLOCK  ADVISORY  READ  359 00:13:11691 0 EOF", FileLock(.flock, .read)),
        ("1: OFDLCK ADVISORY  WRITE -1 00:13:11691 5 5", FileLock(.openFile, .write, start: 5, length: 1)),
        ("1: LEASE  ACTIVE    READ  362 00:13:11690 0 EOF", FileLock(.lease, .read)),
        ("1: LEASE  BREAKING  UNLCK 362 00:13:11690 0 EOF", FileLock(.lease, .none, breaking: true)),
    ])
    func parsed(_ line: String, _ lock: FileLock) {
        #expect(FileLock(parsing: line) == lock)
        #expect(FileLock(lock.entry(process: 7, descriptor: 3)) == lock)
    }

    @Test(arguments: ["", "1: DELEG  ACTIVE    READ  362 00:13:11690 0 EOF", "1: POSIX  ADVISORY  UNLCK 1 00:2d:12 0 EOF", "1: POSIX  ADVISORY  READ 1 00:2d:12 9 8"])
    func unknownWords(_ line: String) { #expect(FileLock(parsing: line) == nil) }

    @Test func unknownEntries() {
        var entry = FileLock(.posix, .read).entry(process: 1, descriptor: 0)
        entry.flag = 3
        #expect(FileLock(entry) == nil)
        entry = FileLock(.flock, .read).entry(process: 1, descriptor: 0)
        entry.type = 2
        #expect(FileLock(entry) == nil)
        entry.type = 1
        entry.start = -1
        #expect(FileLock(entry) == nil)
    }

    /// One range through two numbers of one open file, and a flock: two entries, for each lock is saved once.
    @Test func eachLockOnce() throws {
        let scratch = try Scratch()
        let file = try FileDescriptor.open(try scratch.file("locked"), O_RDWR), second = try file.duplicate()
        var range = flock(l_type: Int16(F_WRLCK), l_whence: 0, l_start: 3, l_len: 4, l_pid: 0)
        try Syscall.call("fcntl(F_SETLK)", SYS_fcntl, value: &range, at: 2, Int(file.number), Int(F_SETLK))
        try Syscall.call("flock", SYS_flock, Int(second.number), Int(LOCK_SH))
        let run = try DumpAndRestore { $0.fileLocks = true }
        let locks = FileLockDump()
        for descriptor in [file, second] { try locks.collect(Self.lines(descriptor), descriptor.number, of: .current, file: 1, run.dump) }
        try run.dump.images.create("files.img")
        let context = try run.restore { $0.fileLocks = true }
        var reader = try context.images.reader("filelocks.img")
        let entries = try reader.all(FileLockEntry.self)
        #expect(Set(entries.map(\.flag)) == [1, 2])
        #expect(entries.count == 2)
        #expect(entries.first { $0.flag == 1 }.map { [Int64($0.type), $0.start, $0.len, Int64($0.fd)] } == [1, 3, 4, Int64(file.number)])
        #expect(throws: CheckpointError.self) { try FileLockRestore(RestoreWithout(context).context) }
    }
    private static func lines(_ file: FileDescriptor) throws -> [String] { try Proc.descriptorInfo(file.number, of: .current).all("lock") }
    private struct RestoreWithout {
        let context: RestoreContext
        init(_ other: RestoreContext) { context = RestoreContext(settings: RestoreSettings(), log: other.log, images: other.images, files: [:]) }
    }

    @Test func refusedWithoutTheOption() throws {
        let scratch = try Scratch()
        let file = try FileDescriptor.open(try scratch.file("locked"), O_RDWR)
        try Syscall.call("flock", SYS_flock, Int(file.number), Int(LOCK_EX))
        let run = try DumpAndRestore()
        do {
            try FileLockDump().collect(Self.lines(file), file.number, of: .current, file: 1, run.dump)
            Issue.record("the lock went unnoticed")
        } catch let error as CheckpointError {
            #expect(error.description.contains("/locked"))
            #expect(error.description.contains("--file-locks"))
        }
    }
}
