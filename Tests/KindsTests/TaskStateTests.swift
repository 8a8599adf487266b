import CLinux
import Foundation
import Glibc
import Graft
import ImageMessages
import Images
@testable import Kinds
import Linux
import Testing

@Suite("state of a task", .serialized) struct TaskStateTests {
    static let golden = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "ImagesTests/Golden/threads/images").path(percentEncoded: false)
    /// The leader's core image, as CRIU 4.2 wrote it.
    static func goldenCore() throws -> CoreEntry { try ImageDirectory(path: golden).single("core-16466.img", CoreEntry.self) }

    @Test("what CRIU saved of a process is what a dump reads after its restore")
    func golden() throws {
        var core = try Self.goldenCore()
        let task = try StubTask()
        // Addresses of the golden program, which the stub does not have; ids of its threads; limits above this machine's.
        core.threadCore.clearRseqEntry()
        core.tc.timers.posix.removeAll { $0.hasNotifyThreadID }
        core.tc.rlimits.rlimits = core.tc.rlimits.rlimits.enumerated().map { resource, limit in
            guard let ceiling = ResourceLimits.ceiling else { return limit }
            var limit = limit
            limit.max = min(limit.max, ceiling[resource])
            limit.cur = min(limit.cur, limit.max)
            return limit
        }
        var mm = MmEntry()
        (mm.dumpable, mm.thpDisabled) = (1, true)
        try task.restore(core, mm)
        let (after, mmAfter) = try task.dump()

        #expect(after.tc.sigactions == core.tc.sigactions)
        #expect(after.tc.rlimits == core.tc.rlimits)
        #expect(after.tc.signalsS == core.tc.signalsS)
        #expect(after.tc.oomScoreAdj == core.tc.oomScoreAdj)
        #expect(after.tc.childSubreaper == core.tc.childSubreaper)
        #expect(after.tc.membarrierRegistrationMask == core.tc.membarrierRegistrationMask)
        #expect(after.tc.timers.posix.map(\.itID) == core.tc.timers.posix.map(\.itID))
        for (new, old) in zip(after.tc.timers.posix, core.tc.timers.posix) {
            #expect(new.clockID == old.clockID && new.siSigno == old.siSigno && new.itSigevNotify == old.itSigevNotify && new.sivalPtr == old.sivalPtr)
            #expect(new.isec == old.isec && new.insec == old.insec)
            #expect(new.vsec == old.vsec || new.vsec + 1 == old.vsec)
        }
        #expect(after.tc.timers.real.isec == core.tc.timers.real.isec && after.tc.timers.real.iusec == core.tc.timers.real.iusec)
        #expect(after.tc.timers.real.vsec == core.tc.timers.real.vsec)
        #expect(after.tc.timers.virt.vsec + 1 >= core.tc.timers.virt.vsec && after.tc.timers.virt.vsec <= core.tc.timers.virt.vsec)
        #expect(mmAfter.dumpable == 1 && mmAfter.thpDisabled)

        #expect(after.threadCore.comm == core.tc.comm)
        #expect(after.threadCore.futexRla == core.threadCore.futexRla && after.threadCore.futexRlaLen == core.threadCore.futexRlaLen)
        #expect(after.threadInfo.clearTidAddr_p == core.threadInfo.clearTidAddr_p)
        #expect(after.threadCore.signalsP == core.threadCore.signalsP)
        #expect(after.threadCore.schedNice == core.threadCore.schedNice && after.threadCore.schedPolicy == core.threadCore.schedPolicy)
        #expect(after.threadCore.sas.ssSp == core.threadCore.sas.ssSp && after.threadCore.sas.ssSize == core.threadCore.sas.ssSize)
        #expect(after.threadCore.creds.uid == core.threadCore.creds.uid && after.threadCore.creds.capEff == core.threadCore.creds.capEff)
    }

    @Test("an unprivileged user with some capabilities, groups, limits and a niceness comes back as such")
    func unprivileged() throws {
        let task = try StubTask()
        var (core, mm) = try task.dump()
        core.threadCore.creds.groups = [5, 1000, 70000]
        (core.threadCore.creds.uid, core.threadCore.creds.euid, core.threadCore.creds.suid, core.threadCore.creds.fsuid) = (1000, 1001, 1002, 1003)
        (core.threadCore.creds.gid, core.threadCore.creds.egid, core.threadCore.creds.sgid, core.threadCore.creds.fsgid) = (2000, 2001, 2002, 2003)
        core.threadCore.creds.capInh = [1 << 10 | 1 << 13, 0]
        core.threadCore.creds.capPrm = [1 << 10 | 1 << 12, 0]
        core.threadCore.creds.capEff = [1 << 12, 0]
        core.threadCore.creds.capAmb = [1 << 10, 0]
        core.threadCore.creds.capBnd = [core.threadCore.creds.capBnd[0] & ~0x7f, core.threadCore.creds.capBnd[1]]
        core.threadCore.creds.secbits = 0x2 | 0x10  // NOROOT_LOCKED, KEEP_CAPS
        core.threadCore.creds.noNewPrivs = 1
        core.threadCore.pdeathSig = 12
        (core.threadCore.schedNice, core.threadCore.schedPolicy) = (-3, 3 /* SCHED_BATCH */ | 0x4000_0000)
        core.threadCore.stasis.timerslackNs = 123456
        core.threadCore.stasis.ioPriority = 2 << 13 | 6
        core.threadCore.stasis.cpuAffinity = [1]
        core.threadCore.comm = "ünprivileged"
        core.tc.rlimits.rlimits[7] = .init()
        (core.tc.rlimits.rlimits[7].cur, core.tc.rlimits.rlimits[7].max) = (33, 44)
        core.tc.childSubreaper = true
        core.tc.membarrierRegistrationMask = 16
        core.tc.stasis.personality = 0x0040000
        core.tc.stasis.mdwe = 1
        core.tc.stasis.coredumpFilter = 0x7f
        mm.dumpable = 0
        try task.restore(core, mm)
        let (after, mmAfter) = try task.dump()
        #expect(after.threadCore.creds == core.threadCore.creds)
        #expect(after.threadCore == core.threadCore)
        #expect(after.tc == core.tc)
        #expect(mmAfter.dumpable == 0)
    }

    @Test("timers of any id, fired or not, in every way of notifying")
    func timers() throws {
        let task = try StubTask()
        var (core, mm) = try task.dump()
        func timer(_ id: UInt32, _ notify: UInt32, interval: UInt64, value: UInt64) -> PosixTimerEntry {
            var timer = PosixTimerEntry()
            (timer.itID, timer.clockID, timer.siSigno, timer.itSigevNotify) = (id, 1, notify == 1 ? 0 : 40, notify)
            (timer.sivalPtr, timer.overrun) = (notify == 1 ? 0 : 0xdead_beef_0000_1234, 0)
            (timer.isec, timer.insec, timer.vsec, timer.vnsec) = (interval, 1, value, 0)
            return timer
        }
        core.tc.timers.posix = [timer(3, 0, interval: 50, value: 0), timer(70_000, 1, interval: 0, value: 100), timer(8, 4, interval: 7, value: 90)]
        core.tc.timers.posix[2].notifyThreadID = task.id.rawValue
        (core.tc.timers.real.isec, core.tc.timers.real.vsec, core.tc.timers.real.vusec) = (60, 0, 0)
        try task.restore(core, mm)
        let after = try task.dump().core.tc.timers
        #expect(after.posix.map(\.itID) == [3, 8, 70_000])
        #expect(after.posix.map(\.vsec) == [50, 89, 99] || after.posix.map(\.vsec) == [49, 89, 99])
        #expect(after.posix.map(\.itSigevNotify) == [0, 4, 1])
        #expect(after.posix[0].sivalPtr == 0xdead_beef_0000_1234 && after.posix[1].notifyThreadID == task.id.rawValue)
        #expect(after.real.isec == 60 && after.real.vsec >= 59)
        _ = mm
    }

    @Test("a periodic timer whose signal waits has one signal waiting afterwards, and goes on counting")
    func timerWaiting() throws {
        let task = try StubTask()
        var (core, mm) = try task.dump()
        var timer = PosixTimerEntry()
        (timer.itID, timer.clockID, timer.siSigno, timer.itSigevNotify, timer.sivalPtr, timer.overrun) = (4, 1, 45, 0, 77, 0)
        (timer.isec, timer.insec, timer.vsec, timer.vnsec) = (0, 2_000_000, 0, 2_000_000)
        core.tc.timers.posix = [timer]
        try task.restore(core, mm)
        usleep(20_000)
        let waiting = try task.dump().core
        #expect(waiting.tc.timers.posix[0].pendingRearm && waiting.tc.signalsS.signals.count == 1)

        let second = try StubTask()
        try second.restore(waiting, mm)
        usleep(20_000)
        #expect(try second.dump().core.tc.signalsS.signals.count == 1)
        // Delivered, it tells how often the timer fired meanwhile.
        let (info, batch) = try second.run { batch in
            let set = batch.words([1 << 44]), info = batch.output(128)
            batch.call("rt_sigtimedwait", SYS_rt_sigtimedwait, set.argument, info.argument, batch.words([0, 0]).argument, 8)
            return info
        }
        let bytes = batch.bytes(of: info)
        #expect(bytes.word(Int32.self, at: 0) == 45 && bytes.word(UInt64.self, at: 24) == 77 && bytes.word(Int32.self, at: 20) >= 5)
        _ = mm
    }

    @Test("a kernel that gives timers no wanted ids is made to count up to them")
    func timersByCounting() throws {
        let task = try StubTask()
        var first = PosixTimerEntry(), second = PosixTimerEntry()
        (first.itID, first.clockID, first.itSigevNotify, first.isec, first.insec, first.vsec, first.vnsec) = (2, 1, 1, 0, 0, 9, 0)
        (second.itID, second.clockID, second.itSigevNotify, second.isec, second.insec, second.vsec, second.vnsec) = (5, 0, 1, 0, 0, 0, 0)
        try task.run { try PosixTimers.restore([second, first], takesIDs: false, into: &$0) }
        #expect(try task.dump().core.tc.timers.posix.map(\.itID) == [2, 5])
    }

    @Test("signals wait in the order in which they were sent, those that end batches too")
    func pending() throws {
        let task = try StubTask()
        func info(_ signal: Int32, _ code: Int32, _ value: UInt64) -> SiginfoEntry {
            var bytes = [UInt8](repeating: 0, count: 128)
            bytes.put(signal, at: 0)
            bytes.put(code, at: 8)
            bytes.put(UInt32(4711), at: 16)
            bytes.put(value, at: 24)
            return SiginfoEntry(bytes: bytes)
        }
        var core = CoreEntry()
        core.tc.signalsS.signals = [info(40, -1, 1), info(SIGUSR1, 0, 0), info(40, -1, 2), info(SIGCHLD, 1, 0), info(SIGURG, 0x80, 0)]
        core.threadCore.signalsP.signals = [info(41, -6, 3), info(SIGWINCH, 0, 0)]
        try task.run {
            try PendingSignals.restore(core.tc.signalsS, to: .process(task.id.rawValue), into: &$0)
            try PendingSignals.restore(core.threadCore.signalsP, to: .thread(task.id.rawValue, of: task.id.rawValue), into: &$0)
        }
        try PendingSignals.restoreLast(core, isLeader: true, thread: task.id, process: task.id, in: task.grafted)
        func sorted(_ queue: SignalQueueEntry) -> [[UInt8]] {
            queue.signals.map(\.bytes).enumerated().sorted { ($0.element[0], $0.offset) < ($1.element[0], $1.offset) }.map(\.element)
        }
        #expect(try sorted(PendingSignals.dump(of: task.id, shared: true)) == sorted(core.tc.signalsS))
        #expect(try sorted(PendingSignals.dump(of: task.id, shared: false)) == sorted(core.threadCore.signalsP))
    }

    @Test("a siginfo of the wrong size and a signal that does not exist are refused")
    func badSignals() throws {
        let task = try StubTask()
        for bytes in [[UInt8](repeating: 1, count: 100), [UInt8](repeating: 0xff, count: 128)] {
            var queue = SignalQueueEntry()
            queue.signals = [SiginfoEntry(bytes: bytes)]
            var batch = task.grafted.batch()
            #expect(throws: CheckpointError.self) { try PendingSignals.restore(queue, to: .process(1), into: &batch) }
        }
    }

    @Test("/proc/PID/timers is read as the kernel writes it")
    func timersText() {
        let text = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\nID: 0\nsignal: 38/0000000000000000\nnotify: signal/tid.2635\nClockID: -22\n"
        #expect(PosixTimers.parse(text) == [
            .init(id: 1, signal: 60, value: 0x7fff86e452a8, notify: 0, thread: nil, clock: 0),
            .init(id: 0, signal: 38, value: 0, notify: 4, thread: 2635, clock: -22),
        ])
    }
}
