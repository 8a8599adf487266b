import CLinux
import Glibc
package import ImageMessages
import Linux

/// timerfd_create(2). Format README, 11.7; the date of an absolute timer is our own field.
package enum Timerfd: OpenFileKind {
    package static var type: FdTypes { .timerfd }
    private static let absolute: UInt32 = 1, onlyAbsolute: UInt32 = 2  // TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET
    private static let setTicks: UInt = 0x4008_5400  // TFD_IOC_SET_TICKS

    package static func claims(_ file: OpenFile) -> Bool { file.link == "anon_inode:[timerfd]" }

    /// Interval and remaining time, struct itimerspec.
    private struct Setting {
        var intervalSeconds: Int64 = 0, intervalNanoseconds: Int64 = 0, seconds: Int64 = 0, nanoseconds: Int64 = 0
        var isArmed: Bool { seconds != 0 || nanoseconds != 0 }
        var isPeriodic: Bool { intervalSeconds != 0 || intervalNanoseconds != 0 }
    }

    /// timerfd_gettime(2) comes first: it sets a periodic timer that has expired going again, adding what it missed to the ticks
    /// (fs/timerfd.c, do_timerfd_gettime), as the next read would; without it fdinfo shows no remaining time for such a timer.
    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.timerfd, file.id)
        var setting = Setting(), now: UInt64 = 0
        var lines: KeyedLines
        var attempts = 0
        repeat {  // it may expire again between the two
            try Syscall.call("timerfd_gettime", SYS_timerfd_gettime, value: &setting, at: 1, Int(file.descriptor.number), on: .fd(file.descriptor.number))
            lines = try Proc.descriptorInfo(file.descriptor.number, of: .current)
            attempts += 1
        } while setting.isPeriodic && lines["it_value"] == "(0, 0)" && attempts < 8
        guard let clock = lines.decimal("clockid"), let ticks = lines.decimal("ticks"), let flags = lines.octal("settime flags") else {
            throw CheckpointError("dump", file.subject, "its fdinfo does not tell what it waits for")
        }
        now = Self.now(on: UInt32(truncatingIfNeeded: clock))
        (entry.tfd.id, entry.tfd.flags) = (file.id, file.flags)
        (entry.tfd.clockid, entry.tfd.ticks, entry.tfd.settimeFlags) = (UInt32(truncatingIfNeeded: clock), ticks, UInt32(truncatingIfNeeded: flags))
        (entry.tfd.vsec, entry.tfd.vnsec) = (UInt64(bitPattern: setting.seconds), UInt64(bitPattern: setting.nanoseconds))
        (entry.tfd.isec, entry.tfd.insec) = (UInt64(bitPattern: setting.intervalSeconds), UInt64(bitPattern: setting.intervalNanoseconds))
        if entry.tfd.settimeFlags & absolute != 0, setting.isArmed {
            entry.tfd.absoluteNs = now &+ UInt64(bitPattern: setting.seconds) &* 1_000_000_000 &+ UInt64(bitPattern: setting.nanoseconds)
        }
        entry.tfd.fown = try file.owner()
        return entry
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            try CheckpointError.about("restore", .object("timerfd, file id \(entry.id)")) {
                guard entry.hasTfd else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) has no timerfd entry") }
                let made = FileDescriptor(owning: Int32(try Syscall.call("timerfd_create", SYS_timerfd_create, Int(entry.tfd.clockid), Int(O_CLOEXEC))))
                try made.setStatusFlags(entry.tfd.flags)
                try FileOwner.restore(entry.tfd.fown, on: made)
                context.made(entry.id, made)
            }
        }
    }

    /// The clocks start late, when all open files are there.
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            try CheckpointError.about("restore", .object("timerfd, file id \(entry.id)")) { try start(entry.tfd, try context.requireDescriptor(of: entry.id)) }
        }
    }

    private static func start(_ entry: TimerfdEntry, _ timer: FileDescriptor) throws {
        var setting = Setting(
            intervalSeconds: Int64(clamping: entry.isec), intervalNanoseconds: Int64(clamping: entry.insec),
            seconds: Int64(clamping: entry.vsec), nanoseconds: Int64(clamping: entry.vnsec))
        guard setting.intervalNanoseconds < 1_000_000_000, setting.nanoseconds < 1_000_000_000 else {
            throw CheckpointError("restore", .image("files.img"), "file id \(entry.id): a timer's nanoseconds are not less than a second")
        }
        // Images of CRIU: a periodic timer that had expired and not been read. It expires at once and then has its ticks.
        let expired = setting.isPeriodic && !setting.isArmed
        if expired { setting.nanoseconds = 1 }
        var flags = entry.settimeFlags & (absolute | onlyAbsolute)
        if flags & absolute == 0 { flags = 0 }
        if setting.isArmed, flags & absolute != 0 {
            // A date is a date, also after a pause; the other clocks may have started anew since (another boot): what was left is left.
            let onCalendar = entry.clockid == UInt32(CLOCK_REALTIME) || entry.clockid == 8 /* CLOCK_REALTIME_ALARM */
            let (seconds, over) = setting.seconds.multipliedReportingOverflow(by: 1_000_000_000)
            let left = over ? UInt64(Int64.max) : UInt64(clamping: seconds) &+ UInt64(clamping: setting.nanoseconds)
            let date = onCalendar && entry.hasAbsoluteNs ? entry.absoluteNs : min(now(on: entry.clockid) &+ left, UInt64(Int64.max))
            (setting.seconds, setting.nanoseconds) = (Int64(clamping: date / 1_000_000_000), Int64(clamping: date % 1_000_000_000))
        }
        if setting.isArmed || flags != 0 {
            try Syscall.call("timerfd_settime", SYS_timerfd_settime, value: &setting, at: 2, Int(timer.number), Int(flags), 0, on: .fd(timer.number))
        }
        if expired { waitUntilReadable(timer) }
        if entry.ticks > 0 {
            var ticks = entry.ticks
            try timer.ioctl("TFD_IOC_SET_TICKS", setTicks, &ticks)
        }
    }

    private static func waitUntilReadable(_ timer: FileDescriptor) {
        var request = pollfd(fd: timer.number, events: Int16(POLLIN), revents: 0)
        _ = try? Syscall.call("poll", SYS_poll, value: &request, at: 0, 1, 100)
    }

    /// The timer's own clock, ns. Alarm clocks read like the ones they are made from.
    private static func now(on clock: UInt32) -> UInt64 {
        var time = timespec(tv_sec: 0, tv_nsec: 0)
        let plain: Int = switch clock { case 8: 0; case 9: 7; default: Int(clock) }
        guard (try? Syscall.call("clock_gettime", SYS_clock_gettime, value: &time, at: 1, plain)) != nil else { return 0 }
        return UInt64(clamping: time.tv_sec) &* 1_000_000_000 &+ UInt64(clamping: time.tv_nsec)
    }
}
