import CLinux
import Glibc
import ImageMessages
@testable import Kinds
import Linux
import Testing

/// Files of the kernel's own: eventfd, signalfd, timerfd, pidfd, epoll.
@Suite("files without a path") struct CounterFileTests {
    private func restored(_ descriptor: FileDescriptor) throws -> FileDescriptor {
        let trip = try SavedFiles()
        let id = try trip.save(descriptor).id
        return try trip.restoreAll().requireDescriptor(of: id)
    }
    private func info(_ descriptor: FileDescriptor) throws -> [String] {
        try Proc.descriptorInfo(descriptor.number, of: .current).lines.filter { $0.key != "eventfd-id" && $0.key != "ino" || $0.key == "flags" }.map { "\($0.key): \($0.value)" }
    }

    @Test("eventfds keep their count, also past 32 bits", arguments: [0, 1, 1 << 32, .max - 1] as [UInt64])
    func eventfd(count: UInt64) throws {
        for flags in [0, 1, Int(O_NONBLOCK)] {
            let before = FileDescriptor(owning: Int32(try Syscall.call("eventfd2", SYS_eventfd2, 0, flags | Int(O_CLOEXEC))))
            if count > 0 { try before.write((0..<8).map { UInt8(truncatingIfNeeded: count >> (8 * $0)) }) }
            #expect(try info(try restored(before)) == info(before))
        }
    }

    @Test("signalfds keep their mask")
    func signalfd() throws {
        var mask: UInt64 = 1 << 9 | 1 << 63
        let before = FileDescriptor(owning: Int32(try Syscall.call("signalfd4", SYS_signalfd4, value: &mask, at: 1, -1, 8, Int(O_CLOEXEC | O_NONBLOCK))))
        #expect(try info(try restored(before)) == info(before))
    }

    struct Times: Equatable { var interval: (Int64, Int64) = (0, 0), value: (Int64, Int64) = (0, 0)
        static func == (a: Times, b: Times) -> Bool { a.interval == b.interval && a.value == b.value } }
    private func timer(_ clock: Int, _ times: Times, _ flags: Int = 0) throws -> FileDescriptor {
        let made = FileDescriptor(owning: Int32(try Syscall.call("timerfd_create", SYS_timerfd_create, clock, Int(O_CLOEXEC | O_NONBLOCK))))
        var times = times
        try Syscall.call("timerfd_settime", SYS_timerfd_settime, value: &times, at: 2, Int(made.number), flags, 0)
        return made
    }
    private func left(_ timer: FileDescriptor) throws -> Times {
        var times = Times()
        try Syscall.call("timerfd_gettime", SYS_timerfd_gettime, value: &times, at: 1, Int(timer.number))
        return times
    }

    @Test("timerfds keep what was left and their interval", arguments: [0, 1, 7, 8, 9])
    func relativeTimer(clock: Int) throws {
        let before = try timer(clock, Times(interval: (3, 5), value: (100, 0)))
        let after = try left(try restored(before))
        #expect(after.interval == (3, 5))
        #expect(after.value.0 == 99)
    }

    @Test("an unarmed timerfd stays unarmed")
    func unarmed() throws { #expect(try left(try restored(try timer(1, Times()))) == Times()) }

    @Test("absolute timerfds expire at the same time, and say how they were set", arguments: [(0, 1), (0, 3), (1, 1), (7, 1)])
    func absoluteTimer(clock: Int, flags: Int) throws {
        var now = timespec(tv_sec: 0, tv_nsec: 0)
        try Syscall.call("clock_gettime", SYS_clock_gettime, value: &now, at: 1, clock)
        let before = try timer(clock, Times(value: (Int64(now.tv_sec) + 50, 0)), flags)
        let after = try restored(before)
        let (a, b) = (try left(before), try left(after))
        let difference = (a.value.0 - b.value.0) * 1_000_000_000 + a.value.1 - b.value.1
        #expect(abs(difference) < 50_000_000)
        #expect(try Proc.descriptorInfo(after.number, of: .current)["settime flags"] == "0\(flags)")
    }

    @Test("a timerfd that has expired can be read, and a periodic one goes on in step")
    func expired() throws {
        let once = try timer(1, Times(value: (0, 1)))
        let periodic = try timer(1, Times(interval: (1, 0), value: (0, 1_000_000)))
        usleep(20_000)
        #expect(try restored(once).read(8) == [1, 0, 0, 0, 0, 0, 0, 0])
        #expect(try left(try restored(once)) == Times())
        let after = try restored(periodic)
        #expect(try after.read(8) == [1, 0, 0, 0, 0, 0, 0, 0])
        let value = try left(after).value
        #expect(value.0 == 0 && value.1 > 800_000_000 && value.1 < 990_000_000)
        #expect(try periodic.read(8) == [1, 0, 0, 0, 0, 0, 0, 0])
    }

    @Test("images of CRIU: a periodic timerfd that was not read since it expired is armed again")
    func expiredInImage() throws {
        let trip = try SavedFiles()
        let file = try OpenFile(id: 1, inThisProcess: try timer(1, Times(interval: (0, 20_000_000), value: (100, 0))))
        var entry = try Timerfd.dump(file, trip.dump)
        (entry.tfd.vsec, entry.tfd.vnsec, entry.tfd.ticks) = (0, 0, 5)
        let context = try trip.restore()
        try Timerfd.make([entry], context)
        try Timerfd.finish([entry], context)  // made is kept by the context
        let after = try context.requireDescriptor(of: 1)
        #expect(try after.read(8)[0] >= 5)
        usleep(50_000)
        #expect(try after.read(8)[0] >= 1)
    }

    @Test("pidfds find their process, with their flags")
    func pidfd() throws {
        let before = FileDescriptor(owning: Int32(try Syscall.call("pidfd_open", SYS_pidfd_open, Int(getpid()), Int(O_NONBLOCK))))
        let after = try restored(before)
        #expect(try Proc.descriptorInfo(after.number, of: .current)["Pid"] == "\(getpid())")
        #expect(try after.control(F_GETFL) == before.control(F_GETFL))
        #expect(try after.status().inode == before.status().inode)
    }

    @Test("pidfds of the dead are dead, and the same where they were the same")
    func deadPidfds() throws {
        func dead() throws -> [FileDescriptor] {
            let program = try FileDescriptor.open("/bin/true", O_RDONLY)
            let pid = clinux_spawn(program.number, 0, 0, 0, -1)
            try #require(pid > 0)
            defer { _ = try? Syscall.call("wait4", SYS_wait4, Int(pid), 0, 0) }
            return [try FileDescriptor.process(ThreadID(pid)), try FileDescriptor.process(ThreadID(pid))]
        }
        let files = try dead() + dead()
        let trip = try SavedFiles()
        let ids = try files.map { try trip.save($0).id }
        let context = try trip.restoreAll()
        let after = try ids.map { try context.requireDescriptor(of: $0) }
        for file in after { #expect(try Proc.descriptorInfo(file.number, of: .current)["Pid"] == "-1") }
        let inodes = try after.map { try $0.status().inode }
        #expect(inodes[0] == inodes[1] && inodes[2] == inodes[3] && inodes[0] != inodes[2])
    }

    @Test("a pidfd of a process outside the tree is refused with its pid")
    func foreignPidfd() throws {
        let error = #expect(throws: CheckpointError.self) { try restored(try FileDescriptor.process(1)) }
        #expect(error?.cause.contains("1 is outside the tree") == true)
    }

    @Test("epolls name their targets by number, and by file id where the number is gone or means something else")
    func epoll() throws {
        let trip = try SavedFiles()
        trip.dump.saveFile = { [unowned trip] file, _ in try trip.save(file).id }
        let epoll = FileDescriptor(owning: Int32(try Syscall.call("epoll_create1", SYS_epoll_create1, Int(O_CLOEXEC))))
        func add(_ file: FileDescriptor, _ events: UInt32, _ data: UInt64) throws {
            var event = (0..<4).map { UInt8(truncatingIfNeeded: events >> (8 * $0)) } + (0..<8).map { UInt8(truncatingIfNeeded: data >> (8 * $0)) }
            try Syscall.call("epoll_ctl", SYS_epoll_ctl, bytes: &event, at: 3, Int(epoll.number), 1, Int(file.number))
        }
        let (reading, writing) = try FileDescriptor.pipe(flags: O_NONBLOCK)
        var moved: FileDescriptor? = try FileDescriptor.pipe(flags: O_NONBLOCK).reading
        let dup = try moved!.duplicate()
        try add(reading, 0x8000_0001, 0xdead_beef_0000_0001)
        try add(writing, 4, 2)
        let number = moved!.number
        try add(moved!, 1, 3)
        moved = nil
        let again = try FileDescriptor.open("/dev/null", O_RDONLY)  // takes the number, or another: both must do
        let entry = try trip.save(epoll).epfd
        #expect(entry.tfd.count == 3)
        let byData = Dictionary(uniqueKeysWithValues: entry.tfd.map { ($0.data, $0) })
        #expect(byData[0xdead_beef_0000_0001]?.tfd == UInt32(reading.number))
        #expect(byData[0xdead_beef_0000_0001]?.events == 0x8000_0019)
        #expect(byData[2]?.id == 0)
        #expect(byData[3]?.tfd == UInt32(number))
        #expect(byData[3].map { $0.id != 0 } == true)
        withExtendedLifetime((dup, again)) {}
    }

    @Test("a device whose driver keeps state is refused, a memory device is not")
    func devices() throws {
        for name in ["/dev/null", "/dev/urandom"] { #expect(Unsupported.device(try OpenFile(id: 1, inThisProcess: try FileDescriptor.open(name, O_RDONLY)), PluginSet()) == nil) }
        guard let fuse = try? FileDescriptor.open("/dev/fuse", O_RDWR) else { return }
        #expect(try RegularFile.refusal(OpenFile(id: 2, inThisProcess: fuse), SavedFiles().dump)?.cause.contains("character device 10:229") == true)
    }
}
