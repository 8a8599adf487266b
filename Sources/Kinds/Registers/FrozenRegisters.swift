import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// The registers of a stopped thread, its blocked signals and its restartable sequence, read before the thread is grafted and
/// before the memory of its process is saved.
package struct FrozenRegisters {
    /// As the thread stopped, moved out of a restartable sequence.
    package let registers: Registers
    /// Bit n - 1 is signal n: those that hold once the interrupted call is over.
    package let signalMask: UInt64
    private let extended: ExtendedRegisters
    private let rseq: clinux_rseq_configuration?
    private let segments: [UserDescT]
    private let sleep: SleepLeft?
    private let memory: RemoteMemory

    /// - Parameter probe: what was seen of the thread before it was stopped: how long it has slept already.
    package init(_ task: TracedTask, _ probe: SleepProbe?) throws {
        registers = try task.registersOutsideCriticalSection()
        if registers.cs == 0x23 {
            throw Self.narrow(task.id)
        }
        signalMask = try task.signalMask()
        extended = try ExtendedRegisters(of: task)
        rseq = try task.rseqConfiguration()
        segments = Self.descriptors(of: task)
        memory = RemoteMemory(of: task.id)
        let probe = probe.flatMap { $0.holds(for: task.id) ? $0 : nil }
        sleep = InterruptedCall(registers) == .continued ? SleepLeft(registers, memory, probe) : nil
        // A sleep that nobody interrupted leaves its second argument alone.
        if sleep != nil, let remainder = probe?.remainder { try? memory.write(remainder.content, at: remainder.address) }
        let shadowStack = Self.shadowStacks ? (try? task.registerSet(0x204 /* NT_X86_SHSTK */, size: 8)) ?? [] : []
        if shadowStack.contains(where: { $0 != 0 }) {
            throw Self.shadowed(task.id)
        }
    }

    /// Whether this CPU has them (CPUID leaf 7, bit 7 of ecx).
    private static let shadowStacks = clinux_cpuid(7, 0).ecx & 1 << 7 != 0

    private static func narrow(_ task: ThreadID) -> CheckpointError {
        CheckpointError("dump", .task(task), "it runs 32-bit code: 32-bit tasks are not supported yet")
    }
    private static func shadowed(_ task: ThreadID) -> CheckpointError {
        CheckpointError("dump", .task(task), "it uses a shadow stack, which is not supported yet", remedy: "start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK")
    }

    /// What its registers would be refused for, by the word of the program and of /proc/PID/status: of a process that runs.
    package static func refusal(ofProgram process: ThreadID) -> CheckpointError? {
        if let status = try? Proc.status(process), status.words("x86_Thread_features").contains("shstk") { return shadowed(process) }
        guard let program = try? FileDescriptor.open("/proc/\(process)/exe", O_RDONLY | O_CLOEXEC), let head = try? program.read(5, at: 0) else { return nil }
        return head == [0x7f, 0x45, 0x4c, 0x46, 1] ? narrow(process) : nil  // ELFCLASS32
    }

    /// Fills in registers, TLS descriptors and rseq. (Blocked signals go into different messages for leader and other threads.)
    package func fill(_ info: inout ThreadInfoX86, _ core: inout ThreadCoreEntry) throws {
        info.gpregs = UserX86RegsEntry(InterruptedCall.settled(registers, memory))
        info.fpregs = extended.entry()
        info.tls = segments
        if let rseq {
            var entry = RseqEntry()
            (entry.rseqAbiPointer, entry.rseqAbiSize, entry.signature) = (rseq.pointer, rseq.size, rseq.signature)
            core.rseqEntry = entry
        }
        if let sleep {
            core.stasis.restartNr = Int64(sleep.number)
            core.stasis.restartArgs = sleep.arguments
            core.stasis.restartLeftNs = sleep.left
            core.stasis.rawAx = registers.rax
        } else if InterruptedCall(registers, memory) == .again { core.stasis.rawAx = InterruptedCall.result(registers) }
    }

    /// Makes a thread whose registers are as they were when it stopped go on as if it had not been stopped: hides EINTR.
    /// Calls that the kernel restarts by itself are left to it.
    package static func prepareThaw(_ task: TracedTask) throws {
        let registers = try task.registers()
        let memory = RemoteMemory(of: task.id)
        if Int64(bitPattern: registers.rax) == -Int64(EINTR), InterruptedCall(registers, memory) == .again {
            var hidden = registers
            hidden.rax = InterruptedCall.result(registers)
            try task.setRegisters(hidden)
        }
    }

    /// GDT entries 12, 13, 14 (set_thread_area(2)); none where the kernel has no 32-bit support.
    private static func descriptors(of task: TracedTask) -> [UserDescT] {
        (12...14).compactMap { number in
            var raw: (entry: UInt32, base: UInt32, limit: UInt32, flags: UInt32) = (0, 0, 0, 0)
            guard (try? task.request("PTRACE_GET_THREAD_AREA", 25, address: number, &raw)) != nil else { return nil }
            var entry = UserDescT()
            (entry.entryNumber, entry.baseAddr, entry.limit) = (UInt32(number), raw.base, raw.limit)
            entry.seg32Bit = raw.flags & 1 != 0
            (entry.contentsL, entry.contentsH) = (raw.flags & 2 != 0, raw.flags & 4 != 0)
            entry.readExecOnly = raw.flags & 8 != 0
            entry.limitInPages = raw.flags & 16 != 0
            entry.segNotPresent = raw.flags & 32 != 0
            entry.usable = raw.flags & 64 != 0
            return entry
        }
    }
}
