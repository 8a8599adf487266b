import ImageMessages
import Kinds
import Linux

/// What the tasks had of another kernel and this one can't give. The check and the restore ask alike, before anything is made.
enum KernelNeeds {
    static func refusals(_ input: RestoreInput) -> [CheckpointError] {
        var found = [CheckpointError]()
        let module: SecurityModule? = switch input.inventory.lsmtype {
        case .apparmor: .appArmor
        case .selinux: .selinux
        default: nil
        }
        for (pid, process) in input.processes.sorted(by: { $0.key < $1.key }) {
            func refuse(_ what: String, since release: String) {
                found.append(CheckpointError("restore", .task(ThreadID(pid)), "\(what), which this kernel does not know", remedy: "restore under Linux \(release) or newer"))
            }
            if process.core.tc.hasStasis, process.core.tc.stasis.hasMdwe, !KernelProbe.denyWriteExecute { refuse("its memory was never to be writable and executable (PR_SET_MDWE)", since: "6.3") }
            // Let loose it may do what it was kept from.
            for label in Set(([process.core] + process.threads.map(\.core)).map(\.threadCore.creds.lsmProfile)).sorted() where !label.isEmpty {
                let isHere = module?.isActive == true, name = module?.name ?? "a security module"
                found.append(CheckpointError(
                    "restore", .task(ThreadID(pid)), "it ran under the security label \(label) of \(name), " + (isHere ? "and labels are not given back yet" : "which this kernel does not have, or it is turned off"),
                    remedy: isHere ? "run it without a label before it is dumped" : "restore where \(name) is on"))
            }
            if process.mm.vmas.contains(where: { $0.statusBits.contains(.guardRange) }), !KernelProbe.knows(advice: 102) { refuse("it had guard pages (MADV_GUARD_INSTALL)", since: "6.13") }
        }
        return found
    }
}
