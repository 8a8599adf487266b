import ImageMessages
import Kinds
import Linux

/// What the tasks had of a newer kernel and this one can't give. The check and the restore ask alike, before anything is made.
enum KernelNeeds {
    static func refusals(_ input: RestoreInput) -> [CheckpointError] {
        var found = [CheckpointError]()
        for (pid, process) in input.processes.sorted(by: { $0.key < $1.key }) {
            func refuse(_ what: String, since release: String) {
                found.append(CheckpointError("restore", .task(ThreadID(pid)), "\(what), which this kernel does not know", remedy: "restore under Linux \(release) or newer"))
            }
            if process.core.tc.hasStasis, process.core.tc.stasis.hasMdwe, !KernelProbe.denyWriteExecute { refuse("its memory was never to be writable and executable (PR_SET_MDWE)", since: "6.3") }
            if process.mm.vmas.contains(where: { $0.statusBits.contains(.guardRange) }), !KernelProbe.knows(advice: 102) { refuse("it had guard pages (MADV_GUARD_INSTALL)", since: "6.13") }
        }
        return found
    }
}
