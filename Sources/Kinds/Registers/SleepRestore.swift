import CLinux
import Glibc
package import Graft
package import ImageMessages
import Linux

/// Sends a restored thread back to sleep for the time that it had left. The thread itself begins the call in its graft, with
/// the program's own pointers and that time, and is interrupted before it sleeps: so the kernel makes a genuine restart block, from which
/// restart_syscall(2) goes on.
package enum SleepRestore {
    package enum Outcome: Sendable {
        /// The thread was not in such a call.
        case none
        /// The restart block is made: the thread goes on with restart_syscall.
        /// - Parameter remainder: where the call says how much time was left when a signal ends it, and what it would say now.
        case sleeping(number: Int32, remainder: (address: UInt64, content: [UInt8])?)
        /// The call was over at once, with this result: a descriptor is ready, a futex has another value.
        case finished(Int)
    }

    /// After the thread's last batch. The thread stands in its graft before and after.
    package static func begin(_ core: CoreEntry, in grafted: GraftedTask) throws -> Outcome {
        guard core.threadCore.hasStasis, core.threadCore.stasis.hasRestartNr, core.threadCore.stasis.restartArgs.count == 6 else { return .none }
        let number = Int32(truncatingIfNeeded: core.threadCore.stasis.restartNr)
        guard SleepLeft.calls.contains(number) else { return .none }
        var arguments = core.threadCore.stasis.restartArgs
        let left = core.threadCore.stasis.restartLeftNs
        var batch = grafted.batch()
        let time = batch.output(16)
        var bytes = [UInt8]()
        bytes.append(word: left / 1_000_000_000)
        bytes.append(word: left % 1_000_000_000)
        try grafted.memory.write(bytes, at: time.address)
        switch number {
        case SYS_nanosleep: arguments[0] = time.address
        case SYS_clock_nanosleep:
            if arguments[1] & 1 != 0 { return .none }  // TIMER_ABSTIME
            arguments[2] = time.address
        case SYS_futex:
            guard arguments[1] & 0x7f == 0 /* FUTEX_WAIT */ else { return .none }
            arguments[3] = time.address
        default: arguments[2] = min(UInt64(Int32.max), (left + 999_999) / 1_000_000)
        }
        // The kernel writes the time that is left at an interruption. This one never happened.
        let place: UInt64 = number == SYS_nanosleep ? arguments[1] : number == SYS_clock_nanosleep ? arguments[3] : 0
        let content = place == 0 ? nil : try? grafted.memory.read(place, 16)
        let result = try grafted.beginInterrupted(number, arguments)
        if let content { try grafted.memory.write(content, at: place) }
        return result == -516 ? .sleeping(number: number, remainder: place == 0 ? nil : (place, bytes)) : .finished(result)
    }
}
