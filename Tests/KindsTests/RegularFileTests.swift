import Foundation
import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

@Suite("files with a path") struct RegularFileTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    private func again(_ descriptor: FileDescriptor) throws -> (entry: RegFileEntry, made: FileDescriptor) {
        let trip = try DumpAndRestore()
        let entry = try trip.save(descriptor)
        let context = try trip.restoreAll()
        return (entry.reg, try context.requireDescriptor(of: entry.id))
    }

    @Test("flags and position come back", arguments: [O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_APPEND, O_WRONLY | O_APPEND, O_RDWR | O_NONBLOCK, O_RDONLY | 0o1000000, O_WRONLY | O_SYNC])
    func flags(flags: Int32) throws {
        let path = try scratch.file("f", "0123456789")
        let before = try FileDescriptor.open(path, flags)
        try before.seek(7)
        let (entry, after) = try again(before)
        #expect(try after.control(F_GETFL) == before.control(F_GETFL))
        #expect(try after.seek(0, SEEK_CUR) == 7)
        #expect(entry.name == path)
        #expect(entry.mode == S_IFREG | 0o644)
        #expect(entry.hasSize == (flags & 3 != O_WRONLY || flags & O_APPEND == 0))
        #expect(try after.status() == before.status())
    }

    @Test("opening again does not create, truncate or demand a new file")
    func openedWithCreate() throws {
        let before = try FileDescriptor.open(scratch.path + "/f", O_RDWR | O_CREAT | O_EXCL | O_TRUNC)
        try before.write(Array("kept".utf8))
        let (_, after) = try again(before)
        #expect(try after.read(10, at: 0) == Array("kept".utf8))
    }

    @Test("directories, devices, places and links", arguments: [
        ("", O_RDONLY | O_DIRECTORY), ("", 0o10000000), ("link", 0o10000000 | O_NOFOLLOW), ("fifo", 0o10000000), ("/dev/null", O_RDWR), ("/dev/zero", O_RDONLY),
        ("/dev/full", O_WRONLY), ("/dev/urandom", O_RDONLY | O_NONBLOCK), ("/proc/self/status", O_RDONLY), ("/proc/self/fd", O_RDONLY | O_DIRECTORY), ("/sys/kernel", O_RDONLY),
    ] as [(String, Int32)])
    func other(name: String, flags: Int32) throws {
        unsafe symlink("nowhere", scratch.path + "/link")
        unsafe mkfifo(scratch.path + "/fifo", 0o600)
        let before = try FileDescriptor.open(name.hasPrefix("/") ? name : scratch.path + "/" + name, flags)
        let (entry, after) = try again(before)
        #expect(try after.control(F_GETFL) == before.control(F_GETFL))
        #expect(try Files.link(after.procPath) == Files.link(before.procPath))
        #expect(try after.status().rdev == before.status().rdev)
        #expect(try after.status().inode == before.status().inode)
        #expect(entry.hasSize == (name == "/proc/self/status"))
    }

    @Test("many are opened ahead of their turn, from the last on; what is no plain file there, or not there, is left")
    func ahead() throws {
        let trip = try DumpAndRestore()
        let saved = try (0..<300).map { try trip.save(try FileDescriptor.open(try scratch.file("f\($0)", "\($0)"), O_RDWR | O_APPEND)) }
        unsafe unlink(saved[298].reg.name)
        unsafe unlink(saved[297].reg.name)
        unsafe mkfifo(saved[297].reg.name, 0o600)
        let ahead = OpenedAhead()
        ahead.begin(saved)
        try ahead.finish()
        #expect(ahead.take(0) == nil, "the first is the conductor's")
        for index in 1..<300 where index < 297 || index == 299 {
            let file = try #require(ahead.take(index))
            #expect(try file.status == Files.status(saved[index].reg.name))
            #expect(try file.descriptor.status() == file.status)
            #expect(try file.descriptor.control(F_GETFL) & Int(O_ACCMODE | O_APPEND) == Int(O_RDWR | O_APPEND))
        }
        #expect(ahead.take(299) == nil, "a file is given once")
        let again = OpenedAhead()
        again.begin(saved)
        try again.finish()
        #expect(again.take(298) == nil && again.take(297) == nil)
    }

    @Test("what the conductor has come to is not opened ahead")
    func aheadTooLate() throws {
        let trip = try DumpAndRestore()
        let saved = try (0..<200).map { try trip.save(try FileDescriptor.open(try scratch.file("f\($0)"), O_RDONLY)) }
        let ahead = OpenedAhead()
        #expect(ahead.take(150) == nil)
        ahead.begin(saved)
        try ahead.finish()
        #expect((0...150).allSatisfy { ahead.take($0) == nil })
        #expect(ahead.take(151) != nil)
    }

    @Test("the owner of SIGIO comes back")
    func owner() throws {
        let before = try FileDescriptor.open(try scratch.file("f"), O_RDONLY)
        try before.control(8 /* F_SETOWN */, Int(getpid()))
        try before.control(10 /* F_SETSIG */, Int(SIGUSR1))
        let (entry, after) = try again(before)
        #expect(entry.fown.pid == UInt32(getpid()))
        #expect(try FileOwner.dump(after) == entry.fown)
        #expect(entry.fown.signum == UInt32(SIGUSR1))
    }

    @Test("a file called \"x (deleted)\" is not a deleted one")
    func misleadingName() throws {
        let path = try scratch.file("x (deleted)", "here")
        let (entry, after) = try again(try FileDescriptor.open(path, O_RDONLY))
        #expect(entry.name == path)
        #expect(try after.readAll() == Array("here".utf8))
    }

    @Test("a changed size is refused, and the error says what changed")
    func changedSize() throws {
        let path = try scratch.file("f", "1234")
        let trip = try DumpAndRestore()
        try trip.save(try FileDescriptor.open(path, O_RDONLY))
        try FileDescriptor.open(path, O_WRONLY | O_APPEND).write([0])
        let error = #expect(throws: CheckpointError.self) { try trip.restoreAll() }
        #expect(error?.description.contains("bad size 5 (expect 4)") == true)
    }

    @Test("changed permissions are refused unless the check is skipped")
    func changedMode() throws {
        let path = try scratch.file("f", "1234")
        let trip = try DumpAndRestore()
        let entry = try trip.save(try FileDescriptor.open(path, O_RDONLY))
        unsafe chmod(path, 0o755)
        let error = #expect(throws: CheckpointError.self) { try trip.restoreAll() }
        #expect(error?.description.contains("bad mode 0100755 (expect 0100644)") == true)
        #expect(error?.remedy?.contains("--skip-file-rwx-check") == true)
        #expect(try trip.restoreAll { $0.skipFilePermissions = true }.descriptor(of: entry.id) != nil)
    }

    @Test("a program with another build id is refused")
    func changedBuildID() throws {
        let path = scratch.path + "/program"
        try FileManager.default.copyItem(atPath: "/bin/true", toPath: path)
        let trip = try DumpAndRestore()
        let entry = try trip.save(try FileDescriptor.open(path, O_RDONLY))
        try #require(entry.reg.buildID.count == 5)
        var bytes = try Files.read(path)
        let id = (0..<4).map { UInt8(truncatingIfNeeded: entry.reg.buildID[0] >> (8 * $0)) }
        let at = try #require((0..<(bytes.count - 4)).first { Array(bytes[$0..<($0 + 4)]) == id })
        bytes[at] ^= 0xff
        try FileDescriptor.open(path, O_WRONLY).write(bytes)
        let error = #expect(throws: CheckpointError.self) { try trip.restoreAll() }
        #expect(error?.description.contains("bad build-ID") == true)
        #expect(try trip.restoreAll { $0.fileValidation = .size }.descriptor(of: entry.id) != nil)
    }

    @Test("a name from the image that is no absolute path is refused", arguments: ["", "relative", "/with\0zero"])
    func badName(name: String) throws {
        let trip = try DumpAndRestore()
        var entry = try trip.save(try FileDescriptor.open(try scratch.file("f"), O_RDONLY))
        entry.reg.name = name
        let context = try trip.restore()
        #expect(throws: CheckpointError.self) { try RegularFile.make([entry], context) }
    }

    @Test("--inherit-fd takes the place of a file")
    func inherited() throws {
        let path = try scratch.file("f", "old"), other = try FileDescriptor.open(try scratch.file("g", "other"), O_RDONLY)
        let trip = try DumpAndRestore()
        let entry = try trip.save(try FileDescriptor.open(path, O_RDONLY))
        let context = try trip.restoreAll { $0.inherited = [(other.number, String(path.dropFirst()))] }
        #expect(try context.requireDescriptor(of: entry.id).status() == other.status())
    }

    @Test("mappings of one file share an id, a second file gets its own, and cwd and root are always new")
    func mappingIDs() throws {
        let trip = try DumpAndRestore()
        let mappings = try Mapping.all(of: .current, withFlags: false).filter { $0.name.hasPrefix("/") && !$0.name.contains("(deleted)") }
        var ids = [String: Set<UInt32>]()
        for mapping in mappings { ids[mapping.name, default: []].insert(try PathFiles.fileID(mapping: mapping, of: .current, context: trip.dump)) }
        #expect(ids.count > 2)
        #expect(ids.values.allSatisfy { $0.count == 1 })
        #expect(Set(ids.values.map { $0.first! }).count == ids.count)
        let program = try Files.link("/proc/self/exe")
        #expect(try PathFiles.executableID(of: .current, context: trip.dump) == ids[program]?.first)
        let status = try Proc.status(.current)
        let first = try FileSystemContext.dump(of: .current, status: status, trip.dump), second = try FileSystemContext.dump(of: .current, status: status, trip.dump)
        #expect(Set([first.cwdID, first.rootID, second.cwdID, second.rootID]).count == 4)
        let mask = umask(0)
        umask(mask)
        #expect(first.umask == mask)
        let context = try trip.restore()
        #expect(context.files[first.cwdID]?.reg.name == (try Files.link("/proc/self/cwd")))
        let (working, root) = try FileSystemContext.open(first, context)
        #expect(try working.status() == Files.status("/proc/self/cwd/"))
        #expect(root == nil)
    }
}
