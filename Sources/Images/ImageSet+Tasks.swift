import FoundationEssentials
import ImageMessages

// Cores, ids and fs of the tasks (format 5 and 6).
extension ImageSet {
    func check(_ task: TaskImages, at index: Int, _ target: ImageTarget, _ findings: inout Findings) {
        let core = Place(file: ImageFile<CoreEntry>.core.name(task.pid), entry: 0)
        guard task.core.hasTc else { return core.expect(false, "tc", "it is missing", &findings) }
        let state = task.core.tc.taskState
        core.expect((1...3).contains(state), "tc.task_state", "\(state) is none of 1 alive, 2 dead, 3 stopped", &findings)
        core.inside("tc").text(task.core.tc.comm, upTo: Limits.comm, "comm", &findings)
        if task.isDead {
            let place = Place(file: "pstree.img", entry: index)
            place.expect(task.process.threads.count == 1, "threads", "a dead process has \(task.process.threads.count)", &findings)
            place.expect(index > 0, "pid", "the root process is dead", &findings)
            return
        }
        checkState(task.core.tc, core.inside("tc"), task, &findings)
        checkThread(task.core, core, target, &findings)
        for thread in task.threads {
            let place = Place(file: ImageFile<CoreEntry>.core.name(thread.id), entry: 0)
            place.expect(!thread.core.hasTc, "tc", "only the leader of a process has it", &findings)
            place.expect(!thread.core.hasIds, "ids", "only the leader of a process has it", &findings)
            checkThread(thread.core, place, target, &findings)
            if thread.core.threadCore.hasCgSet {
                place.expect(task.core.threadCore.hasCgSet || task.core.tc.hasCgSet, "thread_core.cg_set", "it is here, but not on the leader", &findings)
            }
        }
        if let ids = task.ids { checkIDs(ids, of: task, index, &findings) }
        if let fs = task.fs {
            let place = Place(file: ImageFile<FsEntry>.fs.name(task.pid), entry: 0)
            for (id, field) in [(fs.cwdID, "cwd_id"), (fs.rootID, "root_id")] {
                place.expect(files.path(id) != nil, field, "files.img has no path with id \(id)", &findings)
            }
            place.expect(fs.umask <= 0o777, "umask", "\(String(fs.umask, radix: 8)) has unknown bits", &findings)
        }
    }

    private func checkIDs(_ ids: TaskKobjIdsEntry, of task: TaskImages, _ index: Int, _ findings: inout Findings) {
        let place = Place(file: ImageFile<TaskKobjIdsEntry>.ids.name(task.pid), entry: 0)
        guard index > 0 else {
            place.expect(ids.filesID != inventory.rootIds.filesID, "files_id", "\(ids.filesID) is the dumping process's own table", &findings)
            return
        }
        // Parents come first and were found to exist when pstree.img was read.
        guard let root = tasks.first?.ids, let parent = self[task.process.ppid]?.ids else {
            return Place(file: "pstree.img", entry: index).expect(false, "ppid", "process \(task.process.ppid) is dead and can't be a parent", &findings)
        }
        let host = inventory.rootIds
        let same: [(String, UInt32, UInt32)] = [
            ("pid_ns_id", ids.pidNsID, parent.pidNsID), ("ipc_ns_id", ids.ipcNsID, parent.ipcNsID), ("uts_ns_id", ids.utsNsID, parent.utsNsID),
            ("user_ns_id", ids.userNsID, parent.userNsID), ("time_ns_id", ids.timeNsID, parent.timeNsID),
        ]
        for (field, its, parents) in same {
            place.expect(its == parents, field, "\(its) is not the parent's, \(parents); only mount and network namespaces may differ", &findings)
        }
        place.expect(ids.mntNsID == parent.mntNsID || root.mntNsID != host.mntNsID, "mnt_ns_id", "\(ids.mntNsID) is not the parent's, and the root task has none of its own", &findings)
        place.expect(ids.netNsID == parent.netNsID || root.netNsID != host.netNsID, "net_ns_id", "\(ids.netNsID) is not the parent's, and the root task has none of its own", &findings)
    }

    private func checkState(_ tc: TaskCoreEntry, _ place: Place, _ task: TaskImages, _ findings: inout Findings) {
        place.expect(tc.hasTimers, "timers", "it is missing", &findings)
        place.expect(tc.hasRlimits, "rlimits", "it is missing", &findings)
        place.expect(tc.rlimits.rlimits.count <= 16, "rlimits", "it has \(tc.rlimits.rlimits.count) limits, the kernel has 16", &findings)
        for (index, limit) in tc.rlimits.rlimits.enumerated() {
            place.expect(limit.cur <= limit.max, "rlimits[\(index)]", "the soft limit \(limit.cur) is above the hard one, \(limit.max)", &findings)
        }
        place.expect(tc.sigactions.count == 62, "sigactions", "it has \(tc.sigactions.count) entries, 62 are needed", &findings)
        if tc.taskState == TaskImages.TaskState.stopped { place.signal(tc.stopSigno, orNone: true, "stop_signo", &findings) }
        place.expect((-1000...1000).contains(tc.oomScoreAdj), "oom_score_adj", "\(tc.oomScoreAdj) is not between -1000 and 1000", &findings)
        checkQueue(tc.signalsS, place.inside("signals_s"), &findings)
        let timers = place.inside("timers")
        for (timer, name) in [(tc.timers.real, "real"), (tc.timers.virt, "virt"), (tc.timers.prof, "prof")] {
            timers.expect(timer.iusec < 1_000_000 && timer.vusec < 1_000_000, name, "more than a million microseconds in a second", &findings)
            timers.expect(timer.isec <= UInt64(Int64.max) && timer.vsec <= UInt64(Int64.max), name, "its seconds are out of range", &findings)
        }
        var ids = Set<UInt32>()
        let threads = Set(task.process.threads)
        for (index, timer) in tc.timers.posix.enumerated() {
            let place = timers.inside("posix[\(index)]")
            place.expect(timer.itID <= UInt32(Int32.max) && ids.insert(timer.itID).inserted, "it_id", "\(timer.itID) is out of range or there twice", &findings)
            place.signal(timer.siSigno, orNone: true, "si_signo", &findings)
            place.expect([0, 1, 2, 4].contains(timer.itSigevNotify), "it_sigev_notify", "\(timer.itSigevNotify) is unknown", &findings)
            place.expect(timer.insec < 1_000_000_000 && timer.vnsec < 1_000_000_000, "vnsec", "more than a billion nanoseconds in a second", &findings)
            place.expect(timer.isec <= UInt64(Int64.max) && timer.vsec <= UInt64(Int64.max), "vsec", "its seconds are out of range", &findings)
            if timer.hasNotifyThreadID {
                place.expect(
                    threads.contains(UInt32(bitPattern: timer.notifyThreadID)), "notify_thread_id", "\(timer.notifyThreadID) is no thread of the process", &findings)
            }
        }
    }

    private func checkQueue(_ queue: SignalQueueEntry, _ place: Place, _ findings: inout Findings) {
        for (index, signal) in queue.signals.enumerated() {
            place.expect(signal.siginfo.count == 128, "signals[\(index)].siginfo", "it has \(signal.siginfo.count) bytes, a siginfo has 128", &findings)
        }
    }

    private func checkThread(_ core: CoreEntry, _ place: Place, _ target: ImageTarget, _ findings: inout Findings) {
        guard core.mtype == target.architecture else {
            return place.expect(false, "mtype", "the images are from another architecture (\(core.mtype))", &findings)
        }
        if core.mtype == .x8664, !core.tc.stasis.hasLeaderStatus {
            place.expect(core.hasThreadInfo, "thread_info", "it is missing", &findings)
            checkRegisters(core.threadInfo, place.inside("thread_info"), &findings)
        }
        guard core.hasThreadCore else { return place.expect(false, "thread_core", "it is missing", &findings) }
        let thread = core.threadCore
        let place = place.inside("thread_core")
        place.expect((-20...19).contains(thread.schedNice), "sched_nice", "\(thread.schedNice) is not between -20 and 19", &findings)
        let policy = thread.schedPolicy & ~0x4000_0000  // SCHED_RESET_ON_FORK (sched(7))
        place.expect([0, 1, 2, 3, 5, 6].contains(policy), "sched_policy", "\(thread.schedPolicy) is unknown", &findings)
        if policy == 1 || policy == 2 {
            place.expect((1...99).contains(thread.schedPrio), "sched_prio", "\(thread.schedPrio) is not between 1 and 99", &findings)
        }
        place.text(thread.comm, upTo: Limits.comm, "comm", &findings)
        place.signal(thread.pdeathSig, orNone: true, "pdeath_sig", &findings)
        checkQueue(thread.signalsP, place.inside("signals_p"), &findings)
        place.expect(thread.hasCreds, "creds", "it is missing", &findings)
        let creds = place.inside("creds")
        for (set, name) in [
            (thread.creds.capInh, "cap_inh"), (thread.creds.capPrm, "cap_prm"), (thread.creds.capEff, "cap_eff"), (thread.creds.capBnd, "cap_bnd"), (thread.creds.capAmb, "cap_amb"),
        ] { creds.expect(set.count <= 2, name, "a set of capabilities has 2 words, this one \(set.count)", &findings) }
        for index in 0..<2 {
            let effective = index < thread.creds.capEff.count ? thread.creds.capEff[index] : 0
            let permitted = index < thread.creds.capPrm.count ? thread.creds.capPrm[index] : 0
            creds.expect(effective & ~permitted == 0, "cap_eff", "it has capabilities that are not permitted", &findings)
        }
        creds.expect(thread.creds.groups.count <= Limits.groups, "groups", "\(thread.creds.groups.count) groups are more than the kernel takes", &findings)
        creds.text(thread.creds.lsmProfile, upTo: Limits.path, "lsm_profile", &findings)
        creds.text(thread.creds.lsmSockcreate, upTo: Limits.path, "lsm_sockcreate", &findings)
        if thread.seccompMode == .filter || thread.hasSeccompFilter {
            place.expect(
                Int64(thread.seccompFilter) < Int64(seccomp.seccompFilters.count), "seccomp_filter",
                "seccomp.img has \(seccomp.seccompFilters.count) filters, number \(thread.seccompFilter) is not there", &findings)
        }
        place.expect(thread.stasis.restartArgs.count <= 6, "stasis.restart_args", "a system call has 6 arguments", &findings)
        place.expect(thread.stasis.cpuAffinity.count <= 1024, "stasis.cpu_affinity", "\(thread.stasis.cpuAffinity.count) words are more CPUs than there are", &findings)
    }

    /// Lengths of the arrays: format 6.7.
    private func checkRegisters(_ info: ThreadInfoX86, _ place: Place, _ findings: inout Findings) {
        place.expect(info.tls.count <= 3, "tls", "it has \(info.tls.count) entries, the kernel has 3", &findings)
        let fpregs = place.inside("fpregs")
        fpregs.expect(info.fpregs.stSpace.count == 32, "st_space", "it has \(info.fpregs.stSpace.count) words, 32 are needed", &findings)
        fpregs.expect(info.fpregs.xmmSpace.count == 64, "xmm_space", "it has \(info.fpregs.xmmSpace.count) words, 64 are needed", &findings)
        let xsave = info.fpregs.xsave
        for (count, wanted, field) in [
            (xsave.ymmhSpace.count, 64, "ymmh_space"), (xsave.bndregState.count, 8, "bndreg_state"), (xsave.bndcsrState.count, 8, "bndcsr_state"),
            (xsave.opmaskReg.count, 8, "opmask_reg"), (xsave.zmmUpper.count, 64, "zmm_upper"), (xsave.hi16Zmm.count, 128, "hi16_zmm"), (xsave.pkru.count, 2, "pkru"),
        ] { fpregs.inside("xsave").expect(count == 0 || count == wanted, field, "it has \(count) words, \(wanted) are needed", &findings) }
    }

    /// `prev` leads from an older filter to the newer one, its own index minus one: so a chain has an end.
    func checkSeccomp(_ findings: inout Findings) {
        let place = Place(file: "seccomp.img", entry: 0)
        for (index, filter) in seccomp.seccompFilters.enumerated() {
            let field = "seccomp_filters[\(index)]"
            let count = filter.filter.count
            place.expect(count > 0 && count % 8 == 0 && count <= Limits.filterBytes, "\(field).filter", "\(count) bytes are no filter program", &findings)
            if filter.hasPrev { place.expect(Int64(filter.prev) < Int64(index), "\(field).prev", "\(filter.prev) is not a filter before it", &findings) }
        }
    }
}
