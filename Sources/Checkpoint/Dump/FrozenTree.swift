import CLinux
import Glibc
import Graft
import Kinds
package import Linux

/// A thread standing in a ptrace stop, as it was when it stopped.
package final class FrozenThread {
    package let id: ThreadID
    let task: TracedTask
    /// Read at once: it also takes back what the stop itself wrote into the program's memory (the rest of a sleep).
    var registers: FrozenRegisters
    /// A worker that the kernel made for an io_uring of the process (PF_IO_WORKER): it never runs the program (arch/x86/kernel/process.c, copy_thread).
    var isKernels: Bool { registers.registers.rip == 0 && registers.registers.rsp == 0 && ((try? TaskStat.of(id))?.flags ?? 0) & 0x10 != 0 }
    init(id: ThreadID, task: TracedTask, probe: SleepProbe?) throws { (self.id, self.task, registers) = (id, task, try FrozenRegisters(task, probe)) }
}

/// A process of the tree: standing still, or dead and not yet waited for.
package final class FrozenProcess {
    package enum State: Equatable { case running, stopped(signal: Int32), zombie(status: Int32) }
    package let id: ThreadID
    /// Of the leader; where that has ended, of the first living thread, as a dead one has no memory.
    package internal(set) var stat: TaskStat
    package internal(set) var state: State
    /// Leader first, if it lives; empty for a zombie.
    package internal(set) var threads: [FrozenThread] = []
    /// The kernel's workers for its rings: they are let go, and no part of the images.
    var workers: Set<ThreadID> = []
    /// Of a leader that has ended while other threads live on (pthread_exit(3) in main).
    package internal(set) var endedLeader: TaskStat?
    /// The thread through which /proc shows memory and descriptors: those of a dead leader are gone.
    package var view: ThreadID { endedLeader == nil ? id : threads.first?.id ?? id }
    /// Tells the process from a later one of its id.
    var startTime: UInt64 { (endedLeader ?? stat).startTime }
    /// Whether every thread stands still.
    var isWhole = false
    package internal(set) var children: [FrozenProcess] = []
    init(id: ThreadID, stat: TaskStat, state: State) { (self.id, self.stat, self.state) = (id, stat, state) }
    var isZombie: Bool { if case .zombie = state { true } else { false } }
}

/// A process tree standing still. Losing the value lets go of its tasks, which thaws the tree.
package final class FrozenTree {
    /// A parent before its children; the root first.
    package let processes: [FrozenProcess]
    package var root: FrozenProcess { processes[0] }
    /// CLOCK_MONOTONIC, ns: when freezing began and when the last task stood.
    package let began: UInt64, stood: UInt64

    /// --freeze-cgroup.
    private let cgroup: CgroupFreezer?

    init(processes: [FrozenProcess], began: UInt64, stood: UInt64, cgroup: CgroupFreezer?) { (self.processes, self.began, self.stood, self.cgroup) = (processes, began, stood, cgroup) }

    package var living: [FrozenProcess] { processes.filter { !$0.isZombie } }
    package var threadCount: Int { processes.reduce(0) { $0 + $1.threads.count } }

    /// From here on the tree stands still whatever becomes of us: a task whose tracer dies finds a SIGSTOP before its next instruction.
    package func hold() {
        for process in toBeHeld { _ = Glibc.kill(process.id.rawValue, SIGSTOP) }
        isHeld = true
    }
    private var isHeld = false
    /// Those that were stopped before they were frozen stay so in any case.
    private var toBeHeld: [FrozenProcess] { living.filter { if case .stopped = $0.state { false } else { true } } }

    /// Lets every task run on (or stay stopped, with `stopped`) as if nothing had been. One that was held finds a SIGCONT.
    func thaw(stopped: Bool = false) {
        if isHeld, !stopped { for process in toBeHeld { _ = Glibc.kill(process.id.rawValue, SIGCONT) } }
        if stopped { for process in living { _ = Glibc.kill(process.id.rawValue, SIGSTOP) } }
        cgroup?.restore()
        for process in processes { for thread in process.threads { thread.task.detach() } }
    }

    /// When none of it could run on any more (CLOCK_MONOTONIC, ns): its memory takes the kernel a while longer to free, 100 ms for 1 GiB.
    private(set) var killed: UInt64?

    /// Ends every process and waits until each is gone for its tracer. Parents reap them.
    func kill() throws {
        for process in processes.reversed() where !process.isZombie { _ = Glibc.kill(process.id.rawValue, SIGKILL) }
        killed = Clock.monotonic()
        for process in processes {
            // A dead leader is reported after its other threads (ptrace(2)).
            for thread in process.threads.reversed() {
                var left = 10_000
                while !thread.task.released, left > 0 {
                    if let event = try? thread.task.wait(), case .exited = event { break }
                    if thread.task.released { break }
                    left -= 1
                }
            }
        }
        cgroup?.restore()
    }
}
