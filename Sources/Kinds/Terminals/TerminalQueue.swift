import Glibc
import Linux

/// What waits to be read on both sides of a pseudoterminal. The kernel has no way to look at it without taking it, so it is taken and
/// put back at once, byte by byte with TIOCSTI (ioctl_tty(2)), which goes the way of typed input: with everything that would
/// interpret it switched off, all of it inside the freeze.
enum TerminalQueue {
    /// n_tty's buffer (drivers/tty/n_tty.c, N_TTY_BUF_SIZE); what is beyond waits in the driver's.
    private static let discipline = 4095

    /// - Returns: what the master would read (output), and what the slave would (input).
    static func look(master: FileDescriptor, slave: FileDescriptor?) throws(SyscallError) -> (output: [UInt8], input: [UInt8]) {
        let packets = try master.terminalNumber("TIOCGPKT", 0x8004_5438) != 0
        let output = try lookAtMaster(master, slave, packets: packets)
        guard let slave else { return (output, []) }
        return (output, try lookAtSlave(master, slave))
    }

    private static func lookAtMaster(_ master: FileDescriptor, _ slave: FileDescriptor?, packets: Bool) throws(SyscallError) -> [UInt8] {
        // poll(2) makes the driver's buffer move on (n_tty_poll), and what it says can be read without waiting.
        if try master.poll(Int16(POLLIN)) & Int16(POLLIN) == 0 { return [] }
        if packets {  // a read would begin with a status byte
            if try master.terminalNumber("FIONREAD", 0x541b) == 0 { return [] }
            try master.setPacketMode(false)
        }
        defer { if packets { _ = try? master.setPacketMode(true) } }
        var output = [UInt8]()
        while output.count < 1 << 20, try master.poll(Int16(POLLIN)) & Int16(POLLIN) != 0 {
            let part: [UInt8]
            do throws(SyscallError) { part = try master.read(1 << 16) } catch {
                if error.errno.rawValue == EIO { break }  // no slave is open, and nothing is left
                throw error
            }
            if part.isEmpty { break }
            output += part
        }
        try insertOutput(output, master, slave)
        return output
    }

    /// Puts `output` where the master reads.
    static func insertOutput(_ output: [UInt8], _ master: FileDescriptor, _ slave: FileDescriptor?) throws(SyscallError) {
        try type(Array(output.prefix(discipline)), on: master)
        let rest = Array(output.dropFirst(discipline))
        if rest.isEmpty { return }
        let own = try master.openTerminalPeer(O_RDWR | O_NONBLOCK)
        let settings = try own.terminalSettings()
        var plain = settings
        plain.output = 0
        try own.setTerminalSettings(plain)
        defer { _ = try? own.setTerminalSettings(settings) }
        try own.write(rest)
    }

    private static func lookAtSlave(_ master: FileDescriptor, _ slave: FileDescriptor) throws(SyscallError) -> [UInt8] {
        let settings: TerminalSettings
        // A slave whose master is there is not hung up; a locked one can't be opened again, so its own descriptor is polled.
        settings = try slave.terminalSettings()
        let own = (try? master.openTerminalPeer(O_RDWR | O_NONBLOCK)) ?? slave
        let canonical = settings.local & TerminalSettings.canonical != 0
        var records = [[UInt8]]()
        func readAll() throws(SyscallError) {
            while records.count < 1 << 16, try own.poll(Int16(POLLIN)) & Int16(POLLIN) != 0 {
                do throws(SyscallError) { records.append(try own.read(1 << 16)) } catch {
                    if error.errno.rawValue == EAGAIN || error.errno.rawValue == EIO { return }
                    throw error
                }
            }
        }
        try readAll()
        var unfinished = [UInt8]()
        if canonical {  // a line without end can be read only when lines don't count
            var plain = settings
            plain.local &= ~TerminalSettings.canonical
            plain.characters[6] = 1  // VMIN
            plain.characters[5] = 0  // VTIME
            try own.setTerminalSettings(plain)
            defer { _ = try? own.setTerminalSettings(settings) }
            let waiting = try own.terminalNumber("FIONREAD", 0x541b)
            if waiting > 0 { unfinished = try own.read(Int(waiting)) }
        }
        try insertInput(records, unfinished, own, master, settings)
        return records.flatMap { $0 } + unfinished
    }

    /// Puts input where the slave reads: finished lines (in canonical mode) or pieces, then an unfinished line.
    static func insertInput(
        _ records: [[UInt8]], _ unfinished: [UInt8], _ slave: FileDescriptor, _ master: FileDescriptor, _ settings: TerminalSettings
    ) throws(SyscallError) {
        if records.isEmpty && unfinished.isEmpty { return }
        let canonical = settings.local & TerminalSettings.canonical != 0
        var used = Set<UInt8>(unfinished)
        for record in records { used.formUnion(record) }
        // Ends a line that has no newline, as ^D did: a character that nothing here uses.
        let end: UInt8 = (1...255).first { !used.contains($0) && $0 != 10 && $0 != 255 } ?? 4
        var plain = settings
        plain.input = 0
        plain.local = settings.local & (TerminalSettings.canonical | TerminalSettings.externalProcessing)
        plain.characters = [UInt8](repeating: 0, count: 19)
        plain.characters[6] = 1  // VMIN
        if canonical { plain.characters[4] = end }  // VEOF
        try slave.setTerminalSettings(plain)
        defer { _ = try? slave.setTerminalSettings(settings) }
        var input = [UInt8]()
        for record in records { input += canonical && record.last != 10 ? record + [end] : record }
        input += unfinished
        try type(Array(input.prefix(discipline)), on: slave)
        let rest = Array(input.dropFirst(discipline))
        if !rest.isEmpty { try master.write(rest) }
    }

    /// TIOCSTI for each byte; CAP_SYS_ADMIN lets us do so on any terminal.
    private static func type(_ bytes: [UInt8], on terminal: FileDescriptor) throws(SyscallError) {
        for byte in bytes {
            var byte = byte
            try terminal.ioctl("TIOCSTI", 0x5412, &byte)
        }
    }
}
