import CLinux
import Glibc
import Graft
import ImageMessages
import Images
import Linux

/// Terminals in the making. They are opened before the processes, so that a session's leader can take its controlling terminal before
/// it forks: other members get it by inheritance only (drivers/tty/tty_jobctrl.c, tiocsctty).
final class TerminalRestore: DumpState {
    private var infos: [UInt32: TtyInfoEntry] = [:]
    private var opened = false
    /// Masters by index, and the open files by file id.
    private var masters: [UInt32: FileDescriptor] = [:]
    private var files: [UInt32: FileDescriptor] = [:]
    /// Slaves by index: one of the tree's, or one of ours for a controlling terminal that nobody has open.
    private var slaves: [UInt32: FileDescriptor] = [:]
    /// The controlling terminal of each session. One that is given from outside may be somebody else's.
    private var sessions: [UInt32: (terminal: FileDescriptor, group: UInt32, isGiven: Bool)] = [:]
    /// /dev/tty as a task has opened it, by file id.
    private var current: [UInt32: FileDescriptor] = [:]
    init() {}

    private func entries(_ context: RestoreContext) -> [TtyFileEntry] {
        (context.filesByType[.tty] ?? []).map(\.tty)
    }
    private func info(_ entry: TtyFileEntry) throws -> TtyInfoEntry {
        guard let info = infos[entry.ttyInfoID] else {
            throw CheckpointError("restore", .image("files.img"), "terminal file \(entry.id): tty-info.img has no entry \(entry.ttyInfoID)")
        }
        return info
    }
    private func path(_ entry: TtyFileEntry, _ context: RestoreContext) throws -> String {
        guard let file = context.files[entry.regfID], file.type == .reg, file.reg.name.hasPrefix("/"), !file.reg.name.utf8.contains(0) else {
            throw CheckpointError("restore", .image("files.img"), "terminal file \(entry.id): its path (file id \(entry.regfID)) is missing")
        }
        return file.reg.name
    }
    private func subject(_ info: TtyInfoEntry) -> CheckpointError.Subject {
        .object(info.type == .pty ? "pseudoterminal \(info.pty.index)" : "terminal \(info.id)")
    }

    // MARK: Opening

    func open(_ context: RestoreContext) throws {
        if opened { return }
        opened = true
        let entries = entries(context)
        for info in try context.images.all("tty-info.img", TtyInfoEntry.self, optional: true) { infos[info.id] = info }
        if entries.isEmpty && infos.isEmpty { return }
        var mastersToOpen: [UInt32: TtyFileEntry] = [:], slavesToOpen: [UInt32: [TtyFileEntry]] = [:]
        for entry in entries {
            let info = try info(entry)
            switch info.type {
            case .pty where info.id & 1 == 1:
                guard mastersToOpen.updateValue(entry, forKey: info.pty.index) == nil else {
                    throw CheckpointError("restore", .image("files.img"), "two masters of pseudoterminal \(info.pty.index)")
                }
            case .pty: slavesToOpen[info.pty.index, default: []].append(entry)
            case .ctty: break  // opened in a task of its session
            case .extTty: take(try external(info, context), for: entry, info)
            default: files[entry.id] = try reopen(entry, info, context)
            }
        }
        try openPairs(mastersToOpen, slavesToOpen, context)
        for (index, waiting) in slavesToOpen where masters[index] == nil {
            for entry in waiting { try openOrphan(entry, try info(entry), context) }
        }
        for info in infos.values where info.type == .pty && info.sid != 0 {
            guard let terminal = slaves[info.pty.index], masters[info.pty.index] != nil else { continue }
            sessions[info.sid] = (terminal, info.pgrp, false)
        }
    }

    /// Opens pseudoterminals until every index that is wanted was given: the kernel gives the lowest free one (fs/devpts/inode.c).
    private func openPairs(_ masterEntries: [UInt32: TtyFileEntry], _ slaveEntries: [UInt32: [TtyFileEntry]], _ context: RestoreContext) throws {
        var hungUp: [UInt32: TtyFileEntry] = [:]
        for (index, entries) in slaveEntries where masterEntries[index] == nil {
            if let first = entries.first, try !info(first).hasTermios { hungUp[index] = first }
        }
        var wanted = Set(masterEntries.keys).union(hungUp.keys), spare = [FileDescriptor]()
        while let next = wanted.min() {
            let path = try masterEntries[next].map { try self.path($0, context) } ?? "/dev/ptmx"
            let subject = CheckpointError.Subject.object("pseudoterminal \(next)")
            let made = try CheckpointError.about("restore", subject) { try FileDescriptor.open(path, O_RDWR | O_NOCTTY) }
            let index = try CheckpointError.about("restore", subject) { try made.terminalIndex() }
            guard index <= next || wanted.contains(index), spare.count < 1 << 16 else {
                throw Self.taken(next)
            }
            if wanted.remove(index) == nil { spare.append(made); continue }
            masters[index] = made
            try CheckpointError.about("restore", .object("pseudoterminal \(index)")) {
                try made.lockTerminal(false)
                for entry in slaveEntries[index] ?? [] {
                    let slave = try openSlave(entry, index, made, context)
                    files[entry.id] = slave
                    slaves[index] = slave
                }
                guard let entry = masterEntries[index] else {
                    // Closing the master hangs the slaves up.
                    masters[index] = nil
                    slaves[index] = nil
                    return
                }
                files[entry.id] = made
                try setUp(index, made)
                if slaves[index] == nil, let info = infos[index << 1], info.sid != 0 { slaves[index] = try made.openTerminalPeer(O_RDWR) }
            }
        }
    }

    /// By its path where that leads to it (it may be mounted elsewhere, as /dev/console), else through the master.
    private func openSlave(_ entry: TtyFileEntry, _ index: UInt32, _ master: FileDescriptor, _ context: RestoreContext) throws -> FileDescriptor {
        let flags = Int32(bitPattern: entry.flags & 3) | O_NOCTTY | O_NONBLOCK
        let peer = try master.openTerminalPeer(flags)
        let status = try peer.status()
        guard let path = try? path(entry, context), let there = try? Files.status(path), there.rdev == status.rdev, there.device == status.device else { return peer }
        return try FileDescriptor.open(path, flags)
    }

    /// Settings, size, owner: of the slave, which the master's ioctls reach.
    private func setUp(_ index: UInt32, _ master: FileDescriptor) throws {
        let sides = [infos[index << 1], infos[index << 1 | 1]].compactMap { $0 }
        guard let info = sides.first(where: { $0.hasTermios }) else { return }
        try setSettings(info, master)
        if info.hasWinsize {
            var size = TerminalSize()
            (size.rows, size.columns) = (UInt16(truncatingIfNeeded: info.winsize.wsRow), UInt16(truncatingIfNeeded: info.winsize.wsCol))
            (size.width, size.height) = (UInt16(truncatingIfNeeded: info.winsize.wsXpixel), UInt16(truncatingIfNeeded: info.winsize.wsYpixel))
            try master.setTerminalSize(size)
        }
        if let slave = slaves[index], let side = infos[index << 1], side.hasUid, side.hasGid {
            try Files.setOwner(slave.procPath, uid: side.uid, gid: side.gid)
        }
    }
    private func setSettings(_ info: TtyInfoEntry, _ terminal: FileDescriptor) throws {
        guard info.hasTermios else { return }
        if info.termios.cLine != 0 { try? terminal.setTerminalNumber("TIOCSETD", 0x5423, Int32(truncatingIfNeeded: info.termios.cLine)) }
        try terminal.setTerminalSettings(info.termios.settings)
        if info.hasTermiosLocked { try terminal.setTerminalSettings(info.termiosLocked.settings, locked: true) }
    }

    /// A slave whose master is outside the tree: --inherit-fd, or the terminal that we were started from.
    private func openOrphan(_ entry: TtyFileEntry, _ info: TtyInfoEntry, _ context: RestoreContext) throws {
        if files[entry.id] != nil { return }  // hung up
        let mine: Int32
        switch try replacement(info, context) {
        case .given(let given): return take(given, for: entry, info)
        case .callers(let number): mine = number
        }
        try CheckpointError.about("restore", subject(info)) {
            let terminal = try FileDescriptor.open("/proc/self/fd/\(mine)", Int32(bitPattern: entry.flags & 3) | O_NOCTTY)
            try setSettings(info, terminal)
            files[entry.id] = terminal
            slaves[info.pty.index] = terminal
            // A job that had the terminal has it again; its group exists when this runs.
            if info.pgrp != 0 { callerGroup = (terminal, info.pgrp) }
        }
    }
    private var callerGroup: (terminal: FileDescriptor, group: UInt32)?

    /// --inherit-fd: the descriptor takes the terminal's place, also as controlling terminal.
    private func take(_ given: FileDescriptor, for entry: TtyFileEntry, _ info: TtyInfoEntry) {
        files[entry.id] = given
        if info.sid != 0 { sessions[info.sid] = (given, info.pgrp, true) }
    }

    /// What takes the place of a terminal whose other side was outside the tree.
    private enum Replacement { case given(FileDescriptor), callers(Int32) }
    private func replacement(_ info: TtyInfoEntry, _ context: RestoreContext) throws -> Replacement {
        if let given = try context.inherited(key(info)) { return .given(given) }
        guard context.settings.shellJob else {
            throw CheckpointError(
                "restore", subject(info), "its master was outside the tree", remedy: "restore it to this terminal with --shell-job, or give one with --inherit-fd fd[N]:\(key(info))")
        }
        guard let mine = (0...2).first(where: { number in (try? FileDescriptor.open("/proc/self/fd/\(number)", O_RDWR | O_NOCTTY).terminalSettings()) != nil }) else {
            throw CheckpointError("restore", subject(info), "--shell-job gives it the terminal of the caller, but none of descriptors 0, 1 and 2 is a terminal")
        }
        return .callers(Int32(mine))
    }

    private static func taken(_ index: UInt32) -> CheckpointError {
        CheckpointError(
            "restore", .object("pseudoterminal \(index)"), "/dev/pts/\(index) is taken by a terminal outside the tree",
            remedy: "close that terminal, or restore in a mount namespace with a devpts of its own")
    }

    /// What `open` would refuse.
    func check(_ context: RestoreContext) throws {
        for info in try context.images.all("tty-info.img", TtyInfoEntry.self, optional: true) { infos[info.id] = info }
        let entries = entries(context)
        let masters = Set(try entries.map(info).filter { $0.type == .pty && $0.id & 1 == 1 }.map(\.pty.index))
        for entry in entries {
            let info = try info(entry)
            try context.verify("\(subject(info))", "it can be made, or is given") {
                switch info.type {
                case .pty where masters.contains(info.pty.index):
                    if (try? Files.status("/dev/pts/\(info.pty.index)")) != nil { throw Self.taken(info.pty.index) }
                case .pty: if info.hasTermios { _ = try replacement(info, context) }
                case .ctty: break
                case .extTty: _ = try external(info, context)
                default:
                    let path = try path(entry, context)
                    try CheckpointError.about("restore", .file(path)) { _ = try Files.status(path) }
                }
            }
        }
    }

    private func key(_ info: TtyInfoEntry) -> String { "tty[\(String(info.rdev, radix: 16)):\(String(info.dev, radix: 16))]" }

    private func external(_ info: TtyInfoEntry, _ context: RestoreContext) throws -> FileDescriptor {
        guard let given = try context.inherited(key(info)) else {
            throw CheckpointError("restore", subject(info), "it was brought along from outside", remedy: "give one with --inherit-fd fd[N]:\(key(info))")
        }
        return given
    }

    /// A terminal of the machine: the same device again.
    private func reopen(_ entry: TtyFileEntry, _ info: TtyInfoEntry, _ context: RestoreContext) throws -> FileDescriptor {
        let path = try path(entry, context)
        return try CheckpointError.about("restore", .file(path)) {
            let terminal = try FileDescriptor.open(path, Int32(bitPattern: entry.flags & 3) | O_NOCTTY | O_NONBLOCK)
            try setSettings(info, terminal)
            return terminal
        }
    }

    func publish(_ entries: [TtyFileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            if let file = files[entry.id] { context.made(entry.id, file); continue }
            // /dev/tty: until a task opens it, the terminal itself stands there.
            let info = try info(entry)
            let stand = sessions[info.sid]?.terminal ?? slaves.values.first
            context.made(entry.id, try stand ?? FileDescriptor.open("/dev/null", O_RDWR))
        }
    }

    // MARK: Afterwards

    func finish(_ entries: [TtyFileEntry], _ context: RestoreContext) throws {
        for data in try context.images.all("tty-data.img", TtyDataEntry.self, optional: true) {
            let index = data.ttyID >> 1
            guard let master = masters[index] else { continue }
            let bytes = Array(data.data)
            try CheckpointError.about("restore the queues of", .object("/dev/pts/\(index)")) {
                if data.ttyID & 1 == 1 { try TerminalQueue.insertOutput(bytes, master, slaves[index]) } else {
                    guard let slave = slaves[index] else { return }
                    try TerminalQueue.insertInput([], bytes, slave, master, try slave.terminalSettings())
                }
            }
        }
        for info in infos.values where info.type == .pty {
            guard let terminal = info.id & 1 == 1 ? masters[info.pty.index] : slaves[info.pty.index], masters[info.pty.index] != nil else { continue }
            try CheckpointError.about("restore", subject(info)) {
                if info.exclusive { try terminal.ioctl("TIOCEXCL", 0x540c) }
                if info.id & 1 == 1 {
                    if info.packetMode { try terminal.setPacketMode(true) }
                    if info.locked { try terminal.lockTerminal(true) }
                }
            }
        }
        for entry in entries {
            guard let file = files[entry.id] else { continue }
            try CheckpointError.about("restore", .object("terminal file \(entry.id)")) {
                try FileOwner.restore(entry.fown, on: file)
                try file.control(F_SETFL, Int(entry.flags & 0o26000 | entry.flags & UInt32(O_NONBLOCK)))
            }
        }
        if let (terminal, group) = callerGroup { giveToGroup(terminal, group, context) }
    }

    /// tcsetpgrp(3) for a job of our own session; SIGTTOU, which a background process gets for it, is held back meanwhile.
    private func giveToGroup(_ terminal: FileDescriptor, _ group: UInt32, _ context: RestoreContext) {
        Signals.holding([SIGTTOU]) {
            do { try terminal.setTerminalNumber("TIOCSPGRP", 0x5410, Int32(bitPattern: group)) }
            catch { context.log.info("the terminal's foreground group stays as it is: \(error)") }
        }
    }

    // MARK: In tasks

    /// Opens /dev/tty in the task, where it means the controlling terminal; others that share the open file get the same one.
    func openCurrent(_ descriptors: [(number: Int32, entry: FileEntry)], _ task: any RestoredTask, _ context: RestoreContext) throws {
        for (number, file) in descriptors {
            let entry = file.tty
            guard try info(entry).type == .ctty else { continue }
            try CheckpointError.about("restore", .descriptor(number, path: "/dev/tty", of: task.pid)) {
                var batch = task.grafted.batch()
                if let shared = current[entry.id] {
                    let got = try task.receive([shared])
                    try replace(number, .value(UInt64(got[0])), &batch, task)
                    return
                }
                let tty = batch.call("openat", SYS_openat, .init(AT_FDCWD), batch.string("/dev/tty"), .init(entry.flags & ~UInt32(O_CLOEXEC)), 0)
                try replace(number, .result(tty), &batch, task)
                let process = try FileDescriptor.process(task.pid)
                let opened = try FileDescriptor.duplicate(number, ofProcess: process)
                try FileOwner.restore(entry.fown, on: opened)
                current[entry.id] = opened
            }
        }
    }
    /// dup3(2) over what stands at `number`, whose FD_CLOEXEC stays.
    private func replace(_ number: Int32, _ by: Batch.Argument, _ batch: inout Batch, _ task: any RestoredTask) throws {
        var ask = task.grafted.batch()
        let flags = ask.call("fcntl(F_GETFD)", SYS_fcntl, .init(number), .init(F_GETFD))
        try task.grafted.run(&ask)
        let closing: Int32 = ask.result(flags) & 1 == 1 ? O_CLOEXEC : 0
        batch.call("dup3", SYS_dup3, by, .init(number), .init(closing))
        batch.call("close", SYS_close, by)
        try task.grafted.run(&batch)
    }

    func controlling(_ session: Int32) -> (terminal: FileDescriptor, group: UInt32, isGiven: Bool)? { sessions[UInt32(bitPattern: session)] }
}

/// Controlling terminals, as the stages of a restore ask for them.
package enum ControllingTerminal {
    private static let setControlling = 0x540e, setGroup = 0x5410

    /// Right after setsid(2) in a session's leader, before it forks: makes its terminal the controlling one.
    package static func take(_ leader: any RestoredTask, _ context: RestoreContext) throws {
        let state = context.state(of: TerminalRestore.self)
        try state.open(context)
        guard let (terminal, _, isGiven) = state.controlling(leader.pid.rawValue) else { return }
        try CheckpointError.about("restore the controlling terminal of", .task(leader.pid)) {
            let number = try leader.receive([terminal])[0]
            var batch = leader.grafted.batch()
            let call = batch.call("ioctl(TIOCSCTTY)", SYS_ioctl, .init(number), .init(setControlling), 0, mayFail: isGiven)
            batch.call("close", SYS_close, .init(number))
            try leader.grafted.run(&batch)
            if isGiven, batch.result(call) < 0 { context.log.warn("session \(leader.pid) has no controlling terminal: the one that was given for it is another session's") }
        }
    }

    /// When all groups exist: the foreground one (tcsetpgrp(3)); only a member of the session may say which.
    package static func setForeground(_ leader: any RestoredTask, _ context: RestoreContext) throws {
        guard let (terminal, group, _) = context.state(of: TerminalRestore.self).controlling(leader.pid.rawValue), group != 0 else { return }
        let number = try leader.receive([terminal])[0]
        var batch = leader.grafted.batch()
        let value = batch.bytes((0..<4).map { UInt8(truncatingIfNeeded: group >> (8 * $0)) })
        let call = batch.call("ioctl(TIOCSPGRP)", SYS_ioctl, .init(number), .init(setGroup), value.argument, mayFail: true)
        batch.call("close", SYS_close, .init(number))
        try leader.grafted.run(&batch)
        if batch.result(call) < 0 { context.log.warn("task \(leader.pid): process group \(group) could not be made the terminal's foreground group") }
    }
}
