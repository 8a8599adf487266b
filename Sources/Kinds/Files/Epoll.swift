import CLinux
import Glibc
import Graft
package import ImageMessages
import Linux

/// epoll(7): which open files it watches, under which numbers. Format README, 11.8.
///
/// The kernel knows a target by its open file and the number it had when it was added, and keeps it for as long as the open
/// file lives, also when that number is closed or used again. So each target is looked for with kcmp(2): when the process we met
/// the epoll in has it at that number, the number says it all (as in CRIU's images); when it is elsewhere, the entry's `id`, which
/// CRIU leaves 0, names the target's file id.
package enum Epoll: OpenFileKind {
    package static var type: FdTypes { .eventpoll }

    package static func claims(_ file: OpenFile) -> Bool { file.link == "anon_inode:[eventpoll]" }

    package static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry {
        var entry = FileEntry()
        (entry.type, entry.id) = (.eventpoll, file.id)
        (entry.epfd.id, entry.epfd.flags) = (file.id, file.flags)
        entry.epfd.fown = try file.owner()
        var met: [UInt32: UInt32] = [:]
        for line in try file.info().all("tfd") {
            guard var target = target(line) else { throw CheckpointError("dump", file.subject, "its fdinfo has a line we do not know: tfd: \(line)") }
            let slot = Slot(epoll: file.descriptor, number: target.tfd, index: met[target.tfd, default: 0])
            met[target.tfd, default: 0] += 1
            if try !slot.refersTo(Int32(bitPattern: target.tfd), of: file.process) { target.id = try findElsewhere(slot, file, context) }
            entry.epfd.tfd.append(target)
        }
        return entry
    }

    /// A line of fdinfo: "7 events: 80000019 data: deadbeef  pos:0 ino:40e sdev:10" (fs/eventpoll.c, ep_show_fdinfo).
    static func target(_ line: String) -> EventpollTfdEntry? {
        let words = line.split { $0 == " " || $0 == ":" || $0 == "\t" }
        func value(_ key: Substring, _ radix: Int) -> UInt64? {
            guard let at = words.firstIndex(of: key), at + 1 < words.count else { return nil }
            return UInt64(words[at + 1], radix: radix) ?? Int64(words[at + 1], radix: radix).map { UInt64(bitPattern: $0) }
        }
        guard let first = words.first, let number = UInt32(first), let events = value("events", 16), let data = value("data", 16) else { return nil }
        var entry = EventpollTfdEntry()
        (entry.id, entry.tfd, entry.events, entry.data) = (0, number, UInt32(truncatingIfNeeded: events), data)
        if let device = value("sdev", 16) { entry.dev = UInt32(truncatingIfNeeded: device) }
        if let inode = value("ino", 16) { entry.inode = inode }
        if let position = value("pos", 10) { entry.pos = position }
        return entry
    }

    /// A target of an epoll, as kcmp(2) names it: KCMP_EPOLL_TFD with struct kcmp_epoll_slot.
    private struct Slot {
        let epoll: FileDescriptor, number: UInt32
        /// The how-manieth with this number: the same number can be there with several files.
        let index: UInt32

        func refersTo(_ candidate: Int32, of process: ThreadID) throws -> Bool {
            var raw: (UInt32, UInt32, UInt32) = (UInt32(bitPattern: epoll.number), number, index)
            do throws(SyscallError) {
                return try Syscall.call(
                    "kcmp(KCMP_EPOLL_TFD)", SYS_kcmp, value: &raw, at: 4, Int(process.rawValue), Int(getpid()), 7, Int(candidate), on: .task(process)) == 0
            } catch {
                if error.errno == Errno(EBADF) { return false }
                throw error
            }
        }
    }

    private static func findElsewhere(_ slot: Slot, _ file: OpenFile, _ context: DumpContext) throws -> UInt32 {
        for process in [file.process] + context.processes.filter({ $0 != file.process }) {
            for number in try Proc.descriptors(of: process) where try slot.refersTo(number, of: process) {
                guard let save = context.saveFile else { continue }
                let target = try FileDescriptor.duplicate(number, ofProcess: try FileDescriptor.process(process))
                return try save(target, .descriptor(number, path: "watched by epoll as \(slot.number)", of: process))
            }
        }
        throw CheckpointError(
            "dump", file.subject, "it watches a file under the number \(slot.number) that no process of the tree has open any more",
            remedy: "let the program take it out (EPOLL_CTL_DEL) before it closes it")
    }

    package static func make(_ entries: [FileEntry], _ context: RestoreContext) throws {
        for entry in entries {
            try CheckpointError.about("restore", .object("epoll, file id \(entry.id)")) {
                guard entry.hasEpfd else { throw CheckpointError("restore", .image("files.img"), "file id \(entry.id) has no epoll entry") }
                let made = FileDescriptor(owning: Int32(try Syscall.call("epoll_create1", SYS_epoll_create1, Int(O_CLOEXEC))))
                try made.setStatusFlags(entry.epfd.flags)
                try FileOwner.restore(entry.epfd.fown, on: made)
                context.made(entry.id, made)
            }
        }
    }

    /// Epolls whose targets are in.
    private final class Filled: DumpState { var ids: Set<UInt32> = [] }

    /// Targets are added by the first process that has the epoll: a signalfd is watched for the process that adds it.
    package static func inTask(_ descriptors: [(number: Int32, entry: FileEntry)], _ task: any RestoredTask, _ context: RestoreContext) throws {
        let filled = context.state(of: Filled.self)
        for (number, entry) in descriptors where filled.ids.insert(entry.id).inserted {
            try CheckpointError.about("restore", .descriptor(number, path: "anon_inode:[eventpoll]", of: task.pid)) {
                try add(entry.epfd.tfd.filter { $0.id == 0 }, to: number, task)
                for target in entry.epfd.tfd where target.id != 0 { try addElsewhere(target, to: number, task, context) }
            }
        }
    }

    /// Epolls that no process has open, but a message on its way to one (SCM_RIGHTS): lent to `task` to add their targets.
    package static func fillQueued(_ task: any RestoredTask, _ context: RestoreContext) throws {
        let filled = context.state(of: Filled.self)
        for entry in context.filesByType[.eventpoll] ?? [] where filled.ids.insert(entry.id).inserted {
            guard let epoll = context.descriptor(of: entry.id), !entry.epfd.tfd.isEmpty else { continue }
            try CheckpointError.about("restore", .object("epoll, file id \(entry.id)")) {
                var used = try Proc.descriptors(of: task.pid)
                used += entry.epfd.tfd.compactMap { Int32(exactly: $0.tfd) }  // the epoll itself must not stand where a target has to
                guard let lent = try task.grafted.lend([epoll], used: used).first else { return }
                defer { try? task.grafted.takeBack([lent]) }
                try add(entry.epfd.tfd.filter { $0.id == 0 }, to: lent, task)
                for target in entry.epfd.tfd where target.id != 0 { try addElsewhere(target, to: lent, task, context) }
            }
        }
    }

    private static func add(_ targets: [EventpollTfdEntry], to epoll: Int32, _ task: any RestoredTask) throws {
        var next = 0
        while next < targets.count {
            var batch = task.grafted.batch()
            var calls = [(Batch.Call, EventpollTfdEntry)]()
            while next < targets.count, batch.room > 0, batch.dataRoom > 64 {
                let event = batch.bytes(event(targets[next]))
                calls.append((batch.call("epoll_ctl", SYS_epoll_ctl, .init(epoll), 1 /* EPOLL_CTL_ADD */, .init(targets[next].tfd), event.argument, mayFail: true), targets[next]))
                next += 1
            }
            try task.grafted.run(&batch)
            for (call, target) in calls where batch.result(call) < 0 {
                throw CheckpointError("restore", .descriptor(epoll, path: "anon_inode:[eventpoll]", of: task.pid), "descriptor \(target.tfd) can't be added: \(Errno(Int32(-batch.result(call))))")
            }
        }
    }

    /// The file stands at the wanted number only while it is added; whatever has that number is put aside for the time.
    private static func addElsewhere(_ target: EventpollTfdEntry, to epoll: Int32, _ task: any RestoredTask, _ context: RestoreContext) throws {
        guard let number = Int32(exactly: target.tfd) else { throw CheckpointError("restore", .image("files.img"), "an epoll target has the number \(target.tfd)") }
        let file = try context.requireDescriptor(of: target.id)
        let used = try Proc.descriptors(of: task.pid)
        guard let lent = try task.grafted.lend([file], used: used).first else { throw CheckpointError("restore", .task(task.pid), "it did not receive a descriptor") }
        defer { try? task.grafted.takeBack([lent]) }
        if lent == number { return try add([target], to: epoll, task) }
        guard used.contains(number) else {
            try placed(lent, at: number, closeOnExec: true, task)
            try add([target], to: epoll, task)
            return try task.grafted.takeBack([number])
        }
        if number == epoll { throw CheckpointError("restore", .image("files.img"), "an epoll watches under its own number \(number)") }
        var batch = task.grafted.batch()
        let flags = batch.call("fcntl(F_GETFD)", SYS_fcntl, .init(number), .init(F_GETFD))
        let aside = batch.call("fcntl(F_DUPFD_CLOEXEC)", SYS_fcntl, .init(number), .init(F_DUPFD_CLOEXEC), 0)
        try task.grafted.run(&batch)
        try placed(lent, at: number, closeOnExec: true, task)
        try add([target], to: epoll, task)
        try placed(Int32(batch.result(aside)), at: number, closeOnExec: batch.result(flags) & 1 != 0, task)
        try task.grafted.takeBack([Int32(batch.result(aside))])
    }

    private static func placed(_ from: Int32, at number: Int32, closeOnExec: Bool, _ task: any RestoredTask) throws {
        var batch = task.grafted.batch()
        batch.call("dup3", SYS_dup3, .init(from), .init(number), .init(closeOnExec ? O_CLOEXEC : 0))
        try task.grafted.run(&batch)
    }

    /// struct epoll_event: packed on x86-64 (epoll_ctl(2), include/uapi/linux/eventpoll.h, EPOLL_PACKED).
    private static func event(_ target: EventpollTfdEntry) -> [UInt8] {
        let events = (0..<4).map { UInt8(truncatingIfNeeded: target.events >> (8 * $0)) }
        let data = (0..<8).map { UInt8(truncatingIfNeeded: target.data >> (8 * $0)) }
        #if arch(x86_64)
        return events + data
        #else
        return events + [0, 0, 0, 0] + data
        #endif
    }
}
