import Glibc
import ImageMessages
import Linux

/// One CPU for the conductor and the tasks that it makes. They take turns: one wakes the other and waits. On one CPU that is a switch; on
/// two it is an interrupt, in a virtual machine an exit as well, and a restore of 300 processes takes three times as long.
///
/// What is made inherits it, until `give`.
struct SharedCPU {
    private let usual: [UInt64]

    /// Nil where there is no choice.
    init?() {
        guard let usual = try? Affinity.own(), usual.reduce(0, { $0 + $1.nonzeroBitCount }) > 1 else { return nil }
        guard let cpu = try? Affinity.currentCPU(), (try? Affinity.set(Affinity.only(cpu))) != nil else { return nil }
        self.usual = usual
    }

    /// The conductor runs everywhere again: what it starts from here on is not of the tree.
    func leave() { try? Affinity.set(usual) }

    /// The CPUs of a restored thread: those of its image, which it has already, or those of whatever we would start.
    func give(_ thread: ThreadID, _ core: CoreEntry) {
        if !core.threadCore.stasis.cpuAffinity.isEmpty { return }
        // Where nobody has restricted us nobody shall restrict it, whatever CPUs its cgroup will have some day.
        let isFree = usual.reduce(0) { $0 + $1.nonzeroBitCount } >= Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        try? Affinity.set(isFree ? Affinity.unrestricted : usual, of: thread)
    }
}
