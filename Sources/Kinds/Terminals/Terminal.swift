import Glibc
package import ImageMessages
import Linux

/// Open terminals: both sides of pseudoterminals (pty(7)), /dev/tty, and terminals of the outside that the options allow.
///
/// tty_file_entry is one open file; tty_info_entry one side of a terminal, shared by its open files; tty_data_entry what waits to be
/// read there.
package enum Terminal: OpenFileKind {
    package static var type: FdTypes { .tty }
    static let masterDevice: UInt64 = 5 << 8 | 2, currentDevice: UInt64 = 5 << 8, consoleDevice: UInt64 = 5 << 8 | 1
    /// Fixed ids of terminals that are no pseudoterminals; external ones count up from the last.
    static let consoleID: UInt32 = 1002, virtualID: UInt32 = 1004, currentID: UInt32 = 1006, serialID: UInt32 = 1010, externalID: UInt32 = 1012

    /// /dev/pts/N: majors 136 to 143 (Documentation/admin-guide/devices.txt).
    static func slaveIndex(_ device: UInt64) -> UInt32? {
        let number = FileStatus.kernelDevice(device), major = number >> 20
        return (136...143).contains(major) ? (major - 136) << 20 | number & 0xfffff : nil
    }

    package static func claims(_ file: OpenFile) -> Bool {
        guard file.status.type == S_IFCHR, file.flags & 0o10000000 == 0 else { return false }  // O_PATH opens no terminal
        let device = file.status.rdev
        if device == masterDevice || device == currentDevice || device == consoleDevice || slaveIndex(device) != nil { return true }
        return FileStatus.kernelDevice(device) >> 20 == 4 && (try? file.descriptor.terminalSettings()) != nil
    }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        try CheckpointError.about("dump", file.subject) {
            let state = context.state(of: TerminalDump.self)
            state.begin(context)
            var terminal = TtyFileEntry()
            terminal.id = file.id
            terminal.flags = file.flags
            terminal.fown = try file.owner()
            terminal.ttyInfoID = try state.side(of: file, context)
            terminal.regfID = context.newFileID()
            try context.add(path(of: file, id: terminal.regfID))
            var entry = FileEntry()
            entry.type = .tty
            entry.id = file.id
            entry.tty = terminal
            return entry
        }
    }

    /// The REG entry of the device's path. That the path may be gone (a slave whose master is closed) does not matter.
    private static func path(of file: OpenFile, id: UInt32) throws -> FileEntry {
        var entry = FileEntry()
        entry.type = .reg
        entry.id = id
        entry.reg.id = id
        entry.reg.flags = file.flags
        entry.reg.pos = 0
        entry.reg.fown = .none
        entry.reg.name = file.link.hasSuffix(" (deleted)") ? String(file.link.dropLast(10)) : file.link
        entry.reg.mode = file.status.mode
        return entry
    }

    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws { try TerminalRestore().check(context) }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        let state = context.state(of: TerminalRestore.self)
        try state.open(context)
        try state.publish(entries.map(\.tty), context)
    }
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {
        try context.state(of: TerminalRestore.self).finish(entries.map(\.tty), context)
    }
    package static func inTask(_ descriptors: [(number: Int32, entry: FileEntry)], _ task: any RestoredTask, _ context: RestoreContext) throws {
        try context.state(of: TerminalRestore.self).openCurrent(descriptors, task, context)
    }
}
