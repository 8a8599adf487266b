import CLinux
import Glibc
import Graft
package import Linux

/// What can be seen of a sleeping thread before it is stopped: since when it sleeps. The stop wakes it, and then the kernel tells nobody
/// how much of its time is left.
package struct SleepProbe: Sendable {
    /// CLOCK_MONOTONIC, ns: when the thread last left the CPU.
    let since: UInt64
    /// How often it had left the CPU by itself.
    let switches: UInt64
    /// nanosleep(2)'s place for the time that is left, and what lies there while it sleeps.
    let remainder: (address: UInt64, content: [UInt8])?
    /// The call, also where its number is gone from the registers because it is being continued (restart_syscall(2)).
    let number: Int32

    /// nil for a thread that does not sleep in a call with a relative time. Costs a read of /proc/PID/task/TID/syscall, and of `sched` if it does.
    package init?(of thread: ThreadID, in process: ThreadID) {
        // number, six arguments, stack pointer, instruction pointer (fs/proc/base.c, proc_pid_syscall)
        guard let line = try? Files.readAtOnce("/proc/\(process)/task/\(thread)/syscall") else { return nil }
        let words = line.split(whereSeparator: { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\n") })
        func text(_ word: ArraySlice<UInt8>) -> String { String(decoding: word, as: UTF8.self) }
        guard words.count == 9, var number = Int32(text(words[0])), number == SYS_restart_syscall || SleepLeft.calls.contains(number) else { return nil }
        let values = words[1...].map { UInt64(text($0.dropFirst(2)), radix: 16) ?? 0 }
        if number == SYS_futex, values[3] == 0 { return nil }  // for as long as it takes
        if number == SYS_poll, Int32(truncatingIfNeeded: values[2]) < 0 { return nil }
        let memory = RemoteMemory(of: thread)
        if number == SYS_restart_syscall {
            let place = (try? Files.text("/proc/\(process)/task/\(thread)/wchan")) ?? ""
            guard let first = SleepLeft.number(ofCallBefore: values[7], memory) ?? Self.number(ofCallIn: place, argument: values[0]) else { return nil }
            number = first
        }
        guard let left = Self.scheduled("/proc/\(process)/task/\(thread)/sched"),
            let cpu = (try? TaskStat.of(thread, in: process))?.processor, let clock = Self.clock(ofCPU: cpu) else { return nil }
        let now = Clock.monotonic()
        since = now - min(now, clock > left.lastRun ? clock - left.lastRun : 0)
        switches = left.switches
        self.number = number
        let place: UInt64 = number == SYS_nanosleep ? values[1] : number == SYS_clock_nanosleep ? values[3] : 0
        remainder = place == 0 ? nil : (try? memory.read(place, 16)).map { (place, $0) }
    }

    /// The scheduler's clock of a CPU, ns. Each CPU has its own, which stands still while the CPU serves interrupts or other guests: they may
    /// be seconds apart (kernel/sched/core.c, update_rq_clock_task). So we go there and look at our own time. nil where we may not run.
    private static func clock(ofCPU cpu: Int32) -> UInt64? {
        guard let usual = try? Affinity.own(), (try? Affinity.set(Affinity.only(Int(cpu)))) != nil else { return nil }
        defer { try? Affinity.set(usual) }
        // Asking for our CPU time brings the value up to date (kernel/sched/core.c, task_sched_runtime).
        Clock.threadTime()
        return scheduled("/proc/thread-self/sched")?.lastRun
    }

    /// From the kernel function that a continued call sleeps in (proc(5), /proc/PID/wchan). Those of hrtimer_nanosleep_restart all
    /// count as scheduler (`__sched`) and are passed over. A clock's number is small, where nanosleep has an address.
    private static func number(ofCallIn function: String, argument: UInt64) -> Int32? {
        if function.contains("poll") { return SYS_poll }
        if function.contains("futex") { return SYS_futex }
        guard function.contains("sleep") || function == "do_syscall_64" else { return nil }
        return argument < 4096 ? SYS_clock_nanosleep : SYS_nanosleep
    }

    /// Whether the stopped thread was still in the sleep that the probe has seen: it left the CPU once more, for the stop.
    func holds(for thread: ThreadID) -> Bool { Self.scheduled("/proc/\(thread)/sched")?.switches == switches + 1 }

    /// se.exec_start in ns and nr_voluntary_switches (kernel/sched/debug.c, proc_sched_show_task).
    private static func scheduled(_ path: String) -> (lastRun: UInt64, switches: UInt64)? {
        guard let text = try? Files.text(path) else { return nil }
        var lastRun: UInt64?
        for line in text.split(separator: "\n", maxSplits: 16) {
            guard line.hasPrefix("se.exec_start") || line.hasPrefix("nr_voluntary_switches"), let colon = line.firstIndex(of: ":") else { continue }
            let parts = line[line.index(after: colon)...].drop { $0 == " " }.split(separator: ".")
            guard let whole = parts.first.flatMap({ UInt64($0) }) else { return nil }
            if parts.count == 2, whole < UInt64.max / 2_000_000 { lastRun = whole * 1_000_000 + (UInt64(parts[1]) ?? 0) }
            else if let lastRun { return (lastRun, whole) }
        }
        return nil
    }
}

/// A relative sleep that a stop interrupted: which call, and how long it still had to wait.
package struct SleepLeft: Equatable {
    package let number: Int32
    package let arguments: [UInt64]
    /// ns
    package let left: UInt64

    /// Calls that the kernel goes on with from a restart block, with a relative time.
    static let calls: Set<Int32> = [SYS_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex]

    /// - Parameter registers: of the stop, with rax -516.
    init?(_ registers: Registers, _ memory: RemoteMemory, _ probe: SleepProbe?) {
        var number = Int32(truncatingIfNeeded: registers.orig_rax)
        if number == SYS_restart_syscall {
            guard let first = Self.number(ofCallBefore: registers.rip, memory) ?? probe?.number else { return nil }
            number = first
        }
        guard Self.calls.contains(number) else { return nil }
        let slept = probe.map { Clock.monotonic() - min($0.since, Clock.monotonic()) } ?? 0
        let given: UInt64?
        switch number {
        case SYS_nanosleep: given = Self.time(at: registers.rsi, memory) ?? Self.time(at: registers.rdi, memory).map { $0 - min($0, slept) }
        case SYS_clock_nanosleep: given = Self.time(at: registers.r10, memory) ?? Self.time(at: registers.rdx, memory).map { $0 - min($0, slept) }
        case SYS_futex: given = Self.time(at: registers.r10, memory).map { $0 - min($0, slept) }
        default:
            let milliseconds = Int32(truncatingIfNeeded: registers.rdx)
            given = milliseconds < 0 ? nil : UInt64(milliseconds) * 1_000_000 - min(UInt64(milliseconds) * 1_000_000, slept)
        }
        guard let given else { return nil }
        (self.number, left) = (number, given)
        arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9]
    }

    /// The number of a call that was interrupted before is gone from the registers. A library's `mov $number, %eax; syscall` still tells it.
    static func number(ofCallBefore address: UInt64, _ memory: RemoteMemory) -> Int32? {
        guard let code = try? memory.read(address &- 7, 7), code[0] == 0xb8, code[5] == 0x0f, code[6] == 0x05 else { return nil }
        let number = code.word(Int32.self, at: 1)
        return calls.contains(number) ? number : nil
    }

    /// A struct timespec of the task; nil at address 0 or where there is none. Where a sleep has a place for the time that is left, the
    /// kernel has filled it at the interruption (kernel/time/hrtimer.c, nanosleep_copyout).
    private static func time(at address: UInt64, _ memory: RemoteMemory) -> UInt64? {
        guard address != 0, let bytes = try? memory.read(address, 16) else { return nil }
        let seconds: UInt64 = bytes.word(at: 0), nanoseconds: UInt64 = bytes.word(at: 8)
        guard seconds < 1 << 33, nanoseconds < 1_000_000_000 else { return nil }
        return seconds * 1_000_000_000 + nanoseconds
    }
}
