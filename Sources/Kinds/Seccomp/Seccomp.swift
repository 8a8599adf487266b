import CLinux
import Glibc
package import Graft
package import ImageMessages
package import Linux

/// seccomp(2) filters of the whole tree, collected into seccomp.img. A thread's chain is a run of the image: the newest
/// filter first, the oldest last; `prev` leads from an older filter to the next newer one.
package final class SeccompCollector {
    package private(set) var image = SeccompEntry()
    /// Processes whose threads all have the leader's filters: where those begin.
    private var together: [ThreadID: UInt32] = [:]
    package init() {}

    /// Adds the thread's filters, oldest first in `seccomp_filter`. The leader of a process comes before its other threads.
    /// `core.seccompMode` is filled in already (ThreadQuestions).
    package func fill(_ core: inout ThreadCoreEntry, _ task: TracedTask, of process: ThreadID) throws {
        guard core.hasSeccompMode, core.seccompMode == .filter else { return }
        if let oldest = together[process] { core.seccompFilter = oldest; return }
        let chain = try Self.chain(of: task.id)
        var flags: UInt32 = 0
        if task.id == process {
            let others = try Proc.threads(of: process).filter { $0 != process }
            let equal = try others.allSatisfy { try Proc.status($0, in: process).decimal("Seccomp") == 2 && Self.chain(of: $0) == chain }
            if equal { flags = Self.together }
        }
        let first = image.seccompFilters.count
        for (index, filter) in chain.reversed().enumerated() {
            var entry = SeccompFilter(program: filter.program)
            entry.flags = filter.flags | flags
            if index > 0 { entry.prev = UInt32(first + index - 1) }
            image.seccompFilters.append(entry)
        }
        core.seccompFilter = UInt32(image.seccompFilters.count - 1)
        if flags != 0 { together[process] = core.seccompFilter }
    }
    /// SECCOMP_FILTER_FLAG_TSYNC, _LOG, _SPEC_ALLOW
    static let together: UInt32 = 1, knownFlags: UInt32 = 7

    private struct Filter: Equatable { var program: [UInt8], flags: UInt32 }

    /// Oldest first (PTRACE_SECCOMP_GET_FILTER counts from there; kernel/seccomp.c, get_nth_filter).
    private static func chain(of thread: ThreadID) throws -> [Filter] {
        var found = [Filter]()
        while true {
            let length: Int
            do throws(SyscallError) {
                length = try Syscall.call("PTRACE_SECCOMP_GET_FILTER", SYS_ptrace, Int(CLINUX_PTRACE_SECCOMP_GET_FILTER), Int(thread.rawValue), found.count, 0, on: .task(thread))
            } catch {
                if error.errno == Errno(ENOENT), !found.isEmpty { return found }
                throw error
            }
            var program = [UInt8](repeating: 0, count: length * 8)
            try Syscall.call("PTRACE_SECCOMP_GET_FILTER", SYS_ptrace, bytes: &program, at: 3, Int(CLINUX_PTRACE_SECCOMP_GET_FILTER), Int(thread.rawValue), found.count, on: .task(thread))
            var metadata: (index: UInt64, flags: UInt64) = (UInt64(found.count), 0)
            try Syscall.call("PTRACE_SECCOMP_GET_METADATA", SYS_ptrace, value: &metadata, at: 3, Int(CLINUX_PTRACE_SECCOMP_GET_METADATA), Int(thread.rawValue), 16, on: .task(thread))
            found.append(Filter(program: program, flags: UInt32(truncatingIfNeeded: metadata.flags)))
        }
    }
}

enum Seccomp {
    /// Adds what puts the thread under its filters, oldest first, or into strict mode. PTRACE_O_SUSPEND_SECCOMP keeps them
    /// from acting until the tracer lets go.
    /// - Parameter leader: filters that all threads of a process share are installed by the leader, when all threads exist.
    static func restore(_ core: ThreadCoreEntry, _ image: SeccompEntry, leader: Bool, into batch: inout Batch) throws {
        guard core.hasSeccompMode else { return }
        switch core.seccompMode {
        case .disabled: return
        case .strict: batch.call("prctl(PR_SET_SECCOMP)", SYS_prctl, .init(PR_SET_SECCOMP), 1, 0, 0, 0)
        case .filter:
            for filter in try chain(from: core.seccompFilter, in: image) {
                if filter.flags & SeccompCollector.together != 0 && !leader { continue }
                let program = filter.program
                guard program.count % 8 == 0, (1...4096).contains(program.count / 8), filter.flags & ~SeccompCollector.knownFlags == 0 else {
                    throw CheckpointError("restore", .image("seccomp.img"), "a filter of \(program.count) bytes with flags \(filter.flags) is none")
                }
                guard program.count + 64 < batch.dataRoom, batch.room > 8 else {
                    throw CheckpointError("restore", .image("seccomp.img"), "a thread has more filters than can be installed at once")
                }
                let code = batch.bytes(program)
                let description = batch.words([UInt64(program.count / 8), code.address])  // struct sock_fprog
                batch.call("seccomp", SYS_seccomp, 1, .init(filter.flags), description.argument)
            }
        }
    }

    /// The filters that begin with the oldest one, `index`, in the order of their installation.
    static func chain(from index: UInt32, in image: SeccompEntry) throws -> [SeccompFilter] {
        var chain = [SeccompFilter]()
        var next: UInt32? = index
        while let at = next {
            guard at < image.seccompFilters.count, chain.count <= image.seccompFilters.count else {
                throw CheckpointError("restore", .image("seccomp.img"), "filter \(at) does not exist, or a chain has no end")
            }
            let filter = image.seccompFilters[Int(at)]
            chain.append(filter)
            next = filter.hasPrev ? filter.prev : nil
        }
        return chain
    }
}
