import ImageMessages
package import Linux
import TCPRepair

/// The lock of one dump and its restore. A tree on the host's network has its connections held back; one with a network namespace of its own has the
/// whole namespace held back, as with CRIU, whether or not it has connections.
///
/// When the tree runs on, the lock is lifted. When it is left stopped, one stays until a restore or `network-unlock`; when it is to be killed, another lock
/// is left for the restore, which stays while the tree dies.
package final class PacketLock: DumpState {
    private var lock: ConnectionLock?
    private var isLiftedBeforeRun = false
    package init() {}

    // MARK: Dump

    /// Holds back whatever comes to or leaves the network namespace that this thread is in: the tree's own.
    package static func holdNamespace(_ context: DumpContext) throws { try context.state(of: Self.self).hold(nil, context) }

    /// Holds packets back, if that is not so already, and takes care of the end.
    /// - Parameter connections: those of the tree; nil for all packets.
    func hold(_ connections: [ConnectionLock.Connection]?, _ context: DumpContext) throws {
        guard lock == nil, context.settings.locksNetwork, context.purpose == .dump else { return }
        try context.hook("network-lock")
        let name = "stasis-\(ThreadID.current)-\(context.runID.prefix(8))"
        lock = try CheckpointError.about("lock", .object("the network"), remedy: "load the kernel module nf_tables, or do without with --network-lock skip") {
            try connections.map { try ConnectionLock($0, name: name) } ?? ConnectionLock(ofAllNamed: name)
        }
        context.undo.append { [unowned context] in self.release(context) }
        switch context.settings.ending {
        case .kill:
            leaveToRestore(context)
            leaveLocked(context)  // should it come to nothing (`Dump.Request.handOver`)
        case .leaveStopped: leaveLocked(context)
        case .leaveRunning: break
        }
    }

    /// The tree runs on.
    func release(_ context: DumpContext) {
        guard let held = lock else { return }
        lock = nil
        held.lift()
        try? context.hook("network-unlock")
    }

    /// Whoever left the tree stopped will kill it when it runs elsewhere, and the peers are not to hear of that; or let it run on.
    private func leaveLocked(_ context: DumpContext) {
        context.beforeStop.append { [unowned context] in
            let name = Self.name(context.runID)
            try CheckpointError.about("lock", .object("the network")) { try self.lock?.leave(as: name, unlessAlive: nil) }
            self.lock?.lift()
            self.lock = nil
            context.log.warn("the tree's connections stay locked until it is restored; where it is to run on: stasis network-unlock \(name)")
        }
    }

    /// The dump ends with the tree's death: the peers are not to hear of it.
    private func leaveToRestore(_ context: DumpContext) {
        context.beforeKill.append { [unowned context] in
            try CheckpointError.about("lock", .object("the network")) {
                try self.lock?.leave(as: Self.name(context.runID), unlessAlive: context.processes[0])
            }
        }
        context.afterKill.append {
            self.lock?.lift()
            self.lock = nil
        }
    }

    /// Lifts what dumps have left that were killed by SIGKILL between their last two steps, in this thread's network namespace. Every command looks where it runs, a dump also
    /// where its tree is.
    package static func liftStale(_ log: Log) {
        guard let lifted = try? ConnectionLock.liftStale() else { return }
        for name in lifted { log.warn("network lock \(name) lifted: its dump was killed, and the tree lives") }
    }

    /// The table that stays between a dump and its restore: CRIU's own name for it, so that either's restore lifts the other's lock.
    package static func name(_ runID: String) -> String { String("CRIU-\(runID)".prefix(26)) }

    // MARK: Restore

    /// Holds back all packets of a new namespace until the tree runs. Without nf_tables the kernel answers them, as it would have if the tree were not there.
    static func holdUntilRun(_ context: RestoreContext) {
        do throws(SyscallError) {
            let lock = try ConnectionLock(ofAllNamed: "stasis-\(ThreadID.current)")
            context.beforeRun.append { lock.lift() }
        } catch { context.log.warn("packets that come before the tree runs are not held back: \(error)") }
    }

    /// Lifts the lock of the dump when nothing can fail any more: packets come through.
    package static func liftBeforeRun(_ context: RestoreContext) {
        let state = context.state(of: Self.self), table = name(context.runID)
        if state.isLiftedBeforeRun { return }
        state.isLiftedBeforeRun = true
        context.beforeRun.append { [unowned context] in
            do throws(SyscallError) {
                if try ConnectionLock.lift(table) { context.log.info("network lock lifted") }
            } catch { context.log.error("the network lock \(table) stays: \(error); lift it with stasis network-unlock") }
        }
    }
}
