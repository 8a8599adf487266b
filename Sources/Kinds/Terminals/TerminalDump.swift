import Glibc
import ImageMessages
import Linux

/// What the dump of terminals keeps: the sides that were saved, and whose controlling terminals they are.
final class TerminalDump: DumpState {
    /// Open files of pseudoterminals, by index.
    private var masters: [UInt32: FileDescriptor] = [:]
    private var slaves: [UInt32: (descriptor: FileDescriptor, subject: CheckpointError.Subject)] = [:]
    private var saved = Set<UInt32>()
    private var externals: [String: UInt32] = [:]
    /// By device, as /proc/PID/stat tells: session and foreground group of a task that has it as controlling terminal.
    private var sessions: [Int32: (session: Int32, group: Int32)] = [:]
    private var begun = false
    init() {}

    func begin(_ context: DumpContext) {
        if begun { return }
        begun = true
        for process in context.processes {
            guard let stat = try? TaskStat.of(process), stat.terminal != 0 else { continue }
            sessions[stat.terminal] = (stat.session, stat.foreground)
        }
        context.late.append { [unowned context, unowned self] in try finish(context) }
    }

    /// The id of the file's side of its terminal; saves that side when it is met first.
    func side(of file: OpenFile, _ context: DumpContext) throws -> UInt32 {
        let device = file.status.rdev
        let key = "tty[\(String(device, radix: 16)):\(String(file.status.device, radix: 16))]"
        if context.settings.external.contains(key) { return try external(file, key, context) }
        if device == Terminal.masterDevice {
            let index = try file.descriptor.terminalIndex()
            masters[index] = file.descriptor
            try save(index << 1 | 1, .pty, file, index: index, context)
            return index << 1 | 1
        }
        if let index = Terminal.slaveIndex(device) {
            slaves[index] = (file.descriptor, file.subject)
            try save(index << 1, .pty, file, index: index, context)
            return index << 1
        }
        // A terminal of the machine: a restore opens the same device again.
        let (id, type): (UInt32, TtyType) = switch device {
        case Terminal.currentDevice: (Terminal.currentID, .ctty)
        case Terminal.consoleDevice: (Terminal.consoleID, .console)
        default: FileStatus.kernelDevice(device) & 0xfffff < 64 ? (Terminal.virtualID, .vt) : (Terminal.serialID, .serial)
        }
        try save(id, type, file, index: nil, context)
        return id
    }

    private func external(_ file: OpenFile, _ key: String, _ context: DumpContext) throws -> UInt32 {
        if let id = externals[key] { return id }
        let id = Terminal.externalID + UInt32(externals.count) * 2
        externals[key] = id
        try save(id, .extTty, file, index: nil, context)
        return id
    }

    private func save(_ id: UInt32, _ type: TtyType, _ file: OpenFile, index: UInt32?, _ context: DumpContext) throws {
        if !saved.insert(id).inserted { return }
        try context.images.append("tty-info.img", info(id, type, file.descriptor, file.status, index: index))
    }

    private func info(_ id: UInt32, _ type: TtyType, _ descriptor: FileDescriptor, _ status: FileStatus, index: UInt32?) throws -> TtyInfoEntry {
        var info = TtyInfoEntry()
        info.id = id
        info.type = type
        let isMaster = index != nil && id & 1 == 1
        info.locked = isMaster ? try descriptor.terminalNumber("TIOCGPTLCK", 0x8004_5439) != 0 : false
        info.packetMode = isMaster ? try descriptor.terminalNumber("TIOCGPKT", 0x8004_5438) != 0 : false
        (info.rdev, info.dev) = (UInt32(truncatingIfNeeded: status.rdev), UInt32(truncatingIfNeeded: status.device))
        (info.uid, info.gid) = (status.uid, status.gid)
        if let index { info.pty.index = index }
        (info.exclusive, info.sid, info.pgrp) = (false, 0, 0)
        // EIO: the master was closed, the slave is hung up and knows nothing any more (drivers/tty/tty_io.c, hung_up_tty_ioctl).
        do { info.exclusive = try descriptor.terminalNumber("TIOCGEXCL", 0x8004_5440) != 0 }
        catch { if error.errno.rawValue == EIO { return info } else { throw error } }
        let slave = index.map { Int32(bitPattern: Terminal.slaveDevice($0)) }
        if let owner = sessions[slave ?? Int32(truncatingIfNeeded: status.rdev)] {
            (info.sid, info.pgrp) = (UInt32(bitPattern: owner.session), owner.group > 0 ? UInt32(bitPattern: owner.group) : 0)
        }
        info.termios = .init(try descriptor.terminalSettings())
        info.termiosLocked = .init(try descriptor.terminalSettings(locked: true))
        let size = try descriptor.terminalSize()
        info.winsize.wsRow = UInt32(size.rows)
        info.winsize.wsCol = UInt32(size.columns)
        info.winsize.wsXpixel = UInt32(size.width)
        info.winsize.wsYpixel = UInt32(size.height)
        return info
    }

    /// When all files are saved: slaves without their master, controlling terminals that nobody has open, unread input.
    private func finish(_ context: DumpContext) throws {
        for (index, slave) in slaves.sorted(by: { $0.key < $1.key }) where masters[index] == nil {
            if (try? slave.descriptor.terminalSettings()) == nil { continue }  // hung up: needs no master
            if !context.settings.shellJob {
                let status = try slave.descriptor.status()
                try context.refuse(CheckpointError(
                    "dump", slave.subject, "the other side of this terminal is outside the tree",
                    remedy: "restore it to the terminal of the caller with --shell-job on dump and restore, or bring another along with --external tty[\(String(status.rdev, radix: 16)):\(String(status.device, radix: 16))]",
                    option: "--shell-job"))
            }
        }
        for (index, master) in masters where sessions[Int32(bitPattern: Terminal.slaveDevice(index))] != nil && !saved.contains(index << 1) {
            var status = try info(index << 1, .pty, master, try master.status(), index: index)
            status.rdev = Terminal.slaveDevice(index)
            saved.insert(index << 1)
            try context.images.append("tty-info.img", status)
        }
        for (index, master) in masters.sorted(by: { $0.key < $1.key }) where context.readsContent {
            let subject = CheckpointError.Subject.object("the queues of /dev/pts/\(index)")
            let (output, input) = try CheckpointError.about("dump", subject) { try TerminalQueue.look(master: master, slave: slaves[index]?.descriptor) }
            for (id, data) in [(index << 1 | 1, output), (index << 1, input)] where !data.isEmpty {
                var entry = TtyDataEntry()
                entry.ttyID = id
                entry.data = .init(imageBytes: data)
                try context.images.append("tty-data.img", entry)
            }
        }
    }
}

extension Terminal {
    /// The device number of /dev/pts/INDEX as /proc/PID/stat and st_rdev write it (include/linux/kdev_t.h, new_encode_dev).
    static func slaveDevice(_ index: UInt32) -> UInt32 {
        let major = 136 + (index >> 20) & 7, minor = index & 0xfffff
        return minor & 0xff | major << 8 | (minor & ~0xff) << 12
    }
}

extension TermiosEntry {
    /// c_cc: 32 characters packed four to a word, of which Linux has 19 (format README 13).
    init(_ settings: TerminalSettings) {
        self.init()
        (cIflag, cOflag, cCflag, cLflag) = (settings.input, settings.output, settings.control, settings.local)
        (cLine, cIspeed, cOspeed) = (UInt32(settings.discipline), 0, 0)
        let characters = settings.characters + [UInt8](repeating: 0, count: 76 - settings.characters.count)
        cCc = (0..<19).map { word in (0..<4).reduce(0) { $0 | UInt32(characters[word * 4 + $1]) << (8 * $1) } }
    }
    var settings: TerminalSettings {
        var settings = TerminalSettings()
        (settings.input, settings.output, settings.control, settings.local) = (cIflag, cOflag, cCflag, cLflag)
        settings.discipline = UInt8(truncatingIfNeeded: cLine)
        let characters = cCc.prefix(5).flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } }
        settings.characters = Array((characters + [UInt8](repeating: 0, count: 19)).prefix(19))
        return settings
    }
}
