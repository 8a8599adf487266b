import Glibc
import ImageMessages
import Kinds
import Linux
import Testing

@Suite("terminals", .serialized) struct TerminalTests {
    func open() throws -> (master: FileDescriptor, slave: FileDescriptor) {
        let master = try FileDescriptor.open("/dev/ptmx", O_RDWR | O_NOCTTY)
        try master.lockTerminal(false)
        return (master, try FileDescriptor.open("/dev/pts/\(try master.terminalIndex())", O_RDWR | O_NOCTTY | O_NONBLOCK))
    }
    /// What can be read now, one string a read.
    func reads(_ terminal: FileDescriptor) throws -> [String] {
        var all = [String]()
        while try terminal.poll(Int16(POLLIN)) & Int16(POLLIN) != 0 { all.append(String(decoding: try terminal.read(8192), as: UTF8.self)) }
        return all
    }
    func raw(_ terminal: FileDescriptor) throws {
        var settings = try terminal.terminalSettings()
        (settings.input, settings.output, settings.local) = (0, 0, 0)
        try terminal.setTerminalSettings(settings)
    }

    @Test("a pair keeps its number, settings, size and modes")
    func pair() throws {
        var index: UInt32 = 0, settings = TerminalSettings(), size = TerminalSize()
        (size.rows, size.columns, size.width, size.height) = (33, 77, 640, 480)
        let after = try RoundTrip().roundTrip {
            let (spare, _) = try open()
            let (master, slave) = try open()
            _ = spare
            index = try master.terminalIndex()
            settings = try slave.terminalSettings()
            settings.local &= ~0o10  // ECHO
            settings.characters[0] = 7
            try slave.setTerminalSettings(settings)
            try slave.setTerminalSize(size)
            try slave.ioctl("TIOCEXCL", 0x540c)
            try master.setPacketMode(true)
            var locked = TerminalSettings()
            locked.local = 2
            try slave.setTerminalSettings(locked, locked: true)
            try Files.setOwner(slave.procPath, uid: 1234, gid: 5)
            return [slave, master]
        }
        #expect(try after[1].terminalIndex() == index)
        #expect(try Files.link(after[0].procPath) == "/dev/pts/\(index)")
        #expect(try after[0].terminalSettings() == settings)
        #expect(try after[0].terminalSettings(locked: true).local == 2)
        #expect(try after[0].terminalSize() == size)
        #expect(try after[0].terminalNumber("TIOCGEXCL", 0x8004_5440) == 1)
        #expect(try after[1].terminalNumber("TIOCGPKT", 0x8004_5438) == 1)
        #expect(try after[1].terminalNumber("TIOCGPTLCK", 0x8004_5439) == 0)
        #expect(try after[0].status().uid == 1234)
        #expect(try after[0].control(F_GETFL) & Int(O_NONBLOCK) != 0)
        #expect(try after[1].control(F_GETFL) & Int(O_NONBLOCK) == 0)
    }

    @Test("what is unread stays, on both sides, line by line; a dump changes nothing", arguments: [true, false])
    func queues(restored: Bool) throws {
        let trip = try RoundTrip()
        let make = {
            let (master, slave) = try open()
            try master.write(Array("one\nthree \u{16}\u{3}\nhalf".utf8))
            _ = try slave.poll(Int16(POLLIN))  // the driver's worker has handed it on, and its echo is out
            try slave.write(Array("out\n".utf8))
            return [slave, master]
        }
        let after: [FileDescriptor]
        if restored { after = try trip.roundTrip(make) } else {
            after = try make()
            try trip.dump(after)
            try trip.dump(after)
        }
        #expect(try reads(after[0]) == ["one\n", "three \u{3}\n"])
        let output = try reads(after[1]).joined()
        #expect(output == "one\r\nthree ^\u{8}^C\r\nhalfout\r\n")  // the echo of what was typed, then the output
        try after[1].write([10])
        #expect(try reads(after[0]) == ["half\n"])
        #expect(try after[0].terminalSettings().local & 0o10 != 0)
    }

    @Test("raw input keeps every byte", arguments: [true, false])
    func rawQueues(restored: Bool) throws {
        let bytes = (0...255).map { UInt8($0) } + (0..<1500).map { UInt8(truncatingIfNeeded: $0) }
        let trip = try RoundTrip()
        let make = {
            let (master, slave) = try open()
            try raw(slave)
            try master.write(bytes)
            try slave.write(bytes.reversed())
            return [slave, master]
        }
        let after: [FileDescriptor]
        if restored { after = try trip.roundTrip(make) } else {
            after = try make()
            try trip.dump(after)
        }
        var got = [UInt8]()
        while try after[0].poll(Int16(POLLIN)) & Int16(POLLIN) != 0 { got += try after[0].read(8192) }
        #expect(got.elementsEqual(bytes), "\(got.count) bytes")
        got = []
        while try after[1].poll(Int16(POLLIN)) & Int16(POLLIN) != 0 { got += try after[1].read(8192) }
        #expect(got.elementsEqual(bytes.reversed()), "\(got.count) bytes")
    }

    @Test("output beyond the terminal's own buffer is kept", arguments: [true, false])
    func longOutput(restored: Bool) throws {
        let bytes = (0..<9000).map { UInt8(truncatingIfNeeded: $0 &* 13 % 251) }
        let trip = try RoundTrip()
        let make = {
            let (master, slave) = try open()
            try raw(slave)
            try slave.write(bytes)
            return [slave, master]
        }
        let after: [FileDescriptor]
        if restored { after = try trip.roundTrip(make) } else {
            after = try make()
            try trip.dump(after)
        }
        var got = [UInt8]()
        for _ in 0..<100 where got.count < bytes.count {
            while try after[1].poll(Int16(POLLIN)) & Int16(POLLIN) != 0 { got += try after[1].read(8192) }
            usleep(1000)
        }
        #expect(got.elementsEqual(bytes), "\(got.count) bytes")
    }

    @Test("a slave whose master was closed is hung up again")
    func hungUp() throws {
        let after = try RoundTrip().roundTrip {
            let (_, slave) = try open()
            return [slave]
        }
        #expect(try after[0].read(10).isEmpty)
        #expect(throws: SyscallError.self) { try after[0].terminalSettings() }
    }

    @Test("several opens of one slave stay several")
    func manyOpens() throws {
        let after = try RoundTrip().roundTrip {
            let (master, slave) = try open()
            let second = try FileDescriptor.open("/dev/pts/\(try master.terminalIndex())", O_RDONLY | O_NOCTTY)
            return [master, slave, second]
        }
        #expect(try after[2].control(F_GETFL) & 3 == 0)
        #expect(try after[1].control(F_GETFL) & 3 == 2)
        #expect(try after[1].status() == after[2].status())
    }

    @Test("a slave whose master is outside is refused with a remedy, and a number that is taken too")
    func outside() throws {
        let trip = try RoundTrip()
        let (master, slave) = try open()
        let error = #expect(throws: CheckpointError.self) { try trip.dump([slave]) }
        #expect(error?.remedy?.contains("--shell-job") == true)
        try trip.dump([master, slave])
        let taken = #expect(throws: CheckpointError.self) { try trip.restore() }
        #expect(taken?.cause.contains("/dev/pts/\(try! master.terminalIndex()) is taken") == true)
    }

    @Test("an external terminal is the one that is brought along")
    func external() throws {
        let trip = try RoundTrip()
        let (master, slave) = try open()
        let status = try slave.status()
        let key = "tty[\(String(status.rdev, radix: 16)):\(String(status.device, radix: 16))]"
        trip.dumpSettings.external = [key]
        try trip.dump([slave])
        #expect(throws: CheckpointError.self) { try trip.restore() }
        let (_, other) = try open()
        trip.restoreSettings.inherited = [(other.number, key)]
        let after = try trip.restore()
        #expect(try after[0].status() == other.status())
        _ = master
    }
}
