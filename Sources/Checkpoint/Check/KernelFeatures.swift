import Linux

/// What `stasis check` tests, in CRIU's grades and by its names (check --feature NAME); grade `own` is asked by name only, for the
/// verdict of the others is CRIU's.
package struct KernelFeature: Sendable {
    package enum Grade: Sendable { case required, extra, experimental, own }
    package let name: String
    package let grade: Grade
    /// What doesn't work without it.
    package let purpose: String
    private let probe: @Sendable () -> Bool

    init(_ name: String, grade: Grade = .extra, _ purpose: String, _ probe: @escaping @Sendable () -> Bool) {
        (self.name, self.grade, self.purpose, self.probe) = (name, grade, purpose, probe)
    }

    package var isThere: Bool { probe() }

    package static func named(_ name: String) -> KernelFeature? { all.first { $0.name == name && $0.grade != .required } }

    package static let all: [KernelFeature] = required + extra + experimental + own

    /// Without one of these nothing works.
    private static let required: [KernelFeature] = [
        KernelFeature("map_files", grade: .required, "mapped files, through /proc/PID/map_files") { KernelProbe.mapFiles },
        KernelFeature("sock_diag", grade: .required, "unix sockets, through sock_diag") { KernelProbe.unixDiagnosis },
        KernelFeature("ns_last_pid", grade: .required, "restoring pids") {
            KernelProbe.cloneWithIds || KernelProbe.exists("/proc/sys/kernel/ns_last_pid")
        },
        KernelFeature("sock_peek_off", grade: .required, "unread data of sockets") { KernelProbe.peekOffset },
        KernelFeature("kcmp", grade: .required, "which descriptors and memory tasks share") { KernelProbe.compares },
        KernelFeature("prctl", grade: .required, "the fields of a task's memory map") { KernelProbe.memoryMapFields },
        KernelFeature("fdinfo", grade: .required, "positions and flags of open files") {
            KernelProbe.fdinfo(of: try? FileDescriptor.open("/proc/self/status", 0), has: "pos:")
        },
        KernelFeature("ptrace", grade: .required, "stopping tasks") { KernelProbe.tracing },
        KernelFeature("ptrace_peeksiginfo", grade: .required, "pending signals") { KernelProbe.peekSignals },
        KernelFeature("pidfd", grade: .required, "taking descriptors out of tasks") { KernelProbe.pidfds },
        KernelFeature("tty", grade: .required, "terminals") { KernelProbe.exists("/dev/ptmx") },
        KernelFeature("ipc", grade: .required, "System V shared memory") { KernelProbe.exists("/proc/sysvipc/shm") },
    ]

    private static let extra: [KernelFeature] = [
        KernelFeature("mnt_id", "which mount a file belongs to") { KernelProbe.mountID },
        KernelFeature("mem_dirty_track", "incremental dumps by soft-dirty bits or write protection") { KernelProbe.softDirty || KernelProbe.tracksByProtection },
        KernelFeature("aio_remap", "asynchronous I/O rings") { KernelProbe.asynchronousIO },
        KernelFeature("timerfd", "timerfd") { KernelProbe.timerDetails },
        KernelFeature("tun", "tun and tap devices") { KernelProbe.tun },
        KernelFeature("tun_ns", "tun devices of other namespaces") { KernelProbe.tun && KernelProbe.isRelease(atLeast: 5, 0) },
        KernelFeature("userns", "user namespaces") { KernelProbe.exists("/proc/self/ns/user") },
        KernelFeature("fdinfo_lock", "file locks") { KernelProbe.lockDetails },
        KernelFeature("seccomp_suspend", "tasks with seccomp filters") { KernelProbe.seccompSuspend },
        KernelFeature("seccomp_filters", "reading seccomp filters") { KernelProbe.seccompFilters },
        KernelFeature("loginuid", "the audit login uid") { KernelProbe.exists("/proc/self/loginuid") },
        KernelFeature("cgroupns", "cgroup namespaces") { KernelProbe.exists("/proc/self/ns/cgroup") },
        KernelFeature("tcp_half_closed", "half-closed TCP connections") { KernelProbe.tcpRepair && KernelProbe.isRelease(atLeast: 4, 11) },
        KernelFeature("uffd", "memory on demand") { KernelProbe.userfault() },
        // UFFD_FEATURE_EVENT_FORK, _REMAP, _REMOVE, _UNMAP (linux/userfaultfd.h)
        KernelFeature("uffd-noncoop", "memory on demand for tasks that fork and remap") { KernelProbe.userfault(features: 0b100_1110) },
        KernelFeature("can_map_vdso", "mapping the vDSO where it was") { KernelProbe.mapsVdso(0x2003) },
        KernelFeature("sk_ns", "the network namespace of a socket") { KernelProbe.socketNamespace },
        KernelFeature("sk_unix_file", "the file of a unix socket") { KernelProbe.socketFile },
        KernelFeature("net_diag_raw", "raw sockets") { KernelProbe.rawDiagnosis },
        KernelFeature("nsid", "ids of network namespaces") { KernelProbe.namespaceIds },
        KernelFeature("link_nsid", "devices with a peer in another namespace") { KernelProbe.namespaceIds },
        KernelFeature("kcmp_epoll", "epoll targets that share a number") { KernelProbe.comparesEpoll },
        KernelFeature("timens", "time namespaces") { KernelProbe.exists("/proc/self/ns/time") },
        KernelFeature("external_net_ns", "external network namespaces") { KernelProbe.namespaceIds && KernelProbe.socketNamespace },
        KernelFeature("clone3_set_tid", "restoring pids without races") { KernelProbe.cloneWithIds },
        KernelFeature("newifindex", "restoring indices of network devices") { KernelProbe.isRelease(atLeast: 3, 7) },
        KernelFeature("nftables", "nftables rules") { KernelProbe.nftables },
        KernelFeature("has_ipt_legacy", "rules of the old iptables") { KernelProbe.legacyIptables },
        KernelFeature("pidfd_store", "noticing pids used again between two dumps") { KernelProbe.pidfds },
        KernelFeature("ns_pid", "pids inside pid namespaces") { KernelProbe.namespacePids },
        KernelFeature("apparmor_stacking", "stacked AppArmor profiles") {
            (try? Files.text("/sys/kernel/security/apparmor/features/domain/stack")) == "yes\n"
        },
        KernelFeature("network_lock_nftables", "holding packets back with nftables") { KernelProbe.nftables },
        KernelFeature("sockopt_buf_lock", "locked socket buffer sizes") { KernelProbe.bufferLock },
        KernelFeature("memfd_hugetlb", "memfds of huge pages") { KernelProbe.hugeMemfd },
        KernelFeature("move_mount_set_group", "restoring mounts the new way") { KernelProbe.mountGroups },
        KernelFeature("openat2", "opening below a root") { KernelProbe.openat2 },
        KernelFeature("get_rseq_conf", "restartable sequences") { KernelProbe.rseqConfiguration },
        KernelFeature("ipv6_freebind", "IPv6 sockets bound to no address of ours") { KernelProbe.freebind6 },
        KernelFeature("pagemap_scan", "fast scans of a task's pages") { KernelProbe.pagemapScan() },
        KernelFeature("timer_cr_ids", "restoring ids of posix timers") { KernelProbe.timerIds },
        // show_map_vma names the overlay's file, not the one below, since 6.8 (fs: backing_file)
        KernelFeature("overlayfs_maps", "files mapped from overlayfs") { KernelProbe.isRelease(atLeast: 6, 8) },
        KernelFeature("breakpoints", "hardware breakpoints") { KernelProbe.breakpoints },
        KernelFeature("pagemap_scan_guard_pages", "guard regions (MADV_GUARD_INSTALL)") { KernelProbe.guardPages },
    ]

    private static let experimental: [KernelFeature] = [
        KernelFeature("autofs", grade: .experimental, "autofs mounts") { KernelProbe.exists("/dev/autofs") || KernelProbe.hasFilesystem("autofs") },
        KernelFeature("compat_cr", grade: .experimental, "32-bit tasks") { KernelProbe.mapsVdso(0x2002) },
    ]

    private static let own: [KernelFeature] = [
        KernelFeature("pidfd_getfd", grade: .own, "taking descriptors out of running tasks (dump, explain)") { KernelProbe.pidfds },
        // UFFD_FEATURE_WP_ASYNC, _WP_UNPOPULATED (linux/userfaultfd.h)
        KernelFeature("uffd_wp_async", grade: .own, "incremental dumps where there are no soft-dirty pages") { KernelProbe.tracksByProtection },
        KernelFeature("bpf_iter_task_vma", grade: .own, "shorter freezes: the flags of mappings without a count of their pages") { MappingReader(resident: .max).isFast },
    ]
}
