public import ImageMessages

// Every image file of CRIU 4.2, in the order of the format's files.tsv. The legacy ones are read by nobody, but shown.

extension ImageFile where Entry == InventoryEntry {
    public static var inventory: Self { Self("inventory.img", .plain(0x5831_3116), .single) }
}
extension ImageFile where Entry == PstreeEntry {
    public static var pstree: Self { Self("pstree.img", .image(0x5027_3030), .sequence) }
}
extension ImageFile where Entry == SeccompEntry {
    public static var seccomp: Self { Self("seccomp.img", .image(0x6441_3049), .single) }
}
extension ImageFile where Entry == FileEntry {
    public static var files: Self { Self("files.img", .image(0x5630_3138), .sequence) }
}
extension ImageFile where Entry == FdinfoEntry {
    public static var descriptors: Self { Self("fdinfo-%u.img", .image(0x5621_3732), .sequence) }
}
extension ImageFile where Entry == CoreEntry {
    public static var core: Self { Self("core-%u.img", .image(0x5505_3847), .single) }
}
extension ImageFile where Entry == TaskKobjIdsEntry {
    public static var ids: Self { Self("ids-%u.img", .image(0x5443_2030), .single) }
}
extension ImageFile where Entry == MmEntry {
    public static var mm: Self { Self("mm-%u.img", .image(0x5749_2820), .single) }
}
extension ImageFile where Entry == FsEntry {
    public static var fs: Self { Self("fs-%u.img", .image(0x5140_3912), .single) }
}
extension ImageFile where Entry == PagemapEntry {
    public static var pagemap: Self { Self("pagemap-%lu.img", .image(0x5608_4025), .pagemap) }
    public static var sharedPagemap: Self { Self("pagemap-shmem-%lu.img", .image(0x5608_4025), .pagemap) }
    /// Ours: what was touched first after a restore, in that order.
    public static var workingSet: Self { Self("working-set-%u.img", .image(0x5343_4b33), .sequence) }
}
extension ImageFile where Entry == PipeDataEntry {
    public static var pipesData: Self { Self("pipes-data.img", .image(0x5645_3709), .payload) }
    public static var fifoData: Self { Self("fifo-data.img", .image(0x5933_3054), .payload) }
}
extension ImageFile where Entry == SkPacketEntry {
    public static var socketQueues: Self { Self("sk-queues.img", .image(0x5626_4026), .payload) }
}
extension ImageFile where Entry == TcpStreamEntry {
    public static var tcpStream: Self { Self("tcp-stream-%x.img", .image(0x5146_5506), .payload) }
}
extension ImageFile where Entry == RemapFilePathEntry {
    public static var remaps: Self { Self("remap-fpath.img", .image(0x5913_3954), .sequence) }
}
extension ImageFile where Entry == GhostFileEntry {
    public static var ghostFile: Self { Self("ghost-file-%x.img", .image(0x5258_3605), .payload) }
}
extension ImageFile where Entry == MemfdInodeEntry {
    public static var memfds: Self { Self("memfd.img", .image(0x4845_3499), .sequence) }
}
extension ImageFile where Entry == TtyInfoEntry {
    public static var ttys: Self { Self("tty-info.img", .image(0x5945_3036), .sequence) }
}
extension ImageFile where Entry == TtyDataEntry {
    public static var ttyData: Self { Self("tty-data.img", .image(0x5941_3026), .sequence) }
}
extension ImageFile where Entry == FileLockEntry {
    public static var fileLocks: Self { Self("filelocks.img", .image(0x5432_3616), .sequence) }
}
extension ImageFile where Entry == CgroupEntry {
    public static var cgroup: Self { Self("cgroup.img", .image(0x5938_3330), .single) }
}
extension ImageFile where Entry == ApparmorEntry {
    public static var apparmor: Self { Self("apparmor.img", .image(0x5942_3047), .single) }
}
extension ImageFile where Entry == BpfmapFileEntry {
    public static var bpfmapFile: Self { Self("bpfmap-file.img", .image(0x5750_6142), .sequence) }
}
extension ImageFile where Entry == BpfmapDataEntry {
    public static var bpfmapData: Self { Self("bpfmap-data.img", .image(0x6432_4033), .payload) }
}
extension ImageFile where Entry == BinfmtMiscEntry {
    public static var binfmtMisc: Self { Self("binfmt-misc.img", .image(0x6734_3323), .sequence) }
    public static var binfmtMiscOfDevice: Self { Self("binfmt-misc-%u.img", .image(0x6734_3323), .sequence) }
}
extension ImageFile where Entry == UtsnsEntry {
    public static var utsNamespace: Self { Self("utsns-%u.img", .image(0x5447_3203), .single) }
}
extension ImageFile where Entry == IpcVarEntry {
    public static var ipcVariables: Self { Self("ipcns-var-%u.img", .image(0x5311_5007), .single) }
}
extension ImageFile where Entry == IpcShmEntry {
    public static var ipcSharedMemory: Self { Self("ipcns-shm-%u.img", .image(0x4628_3044), .payload) }
}
extension ImageFile where Entry == IpcMsgEntry {
    public static var ipcMessages: Self { Self("ipcns-msg-%u.img", .image(0x5545_3737), .payload) }
}
extension ImageFile where Entry == IpcSemEntry {
    public static var ipcSemaphores: Self { Self("ipcns-sem-%u.img", .image(0x5957_3019), .payload) }
}
extension ImageFile where Entry == MntEntry {
    public static var mountpoints: Self { Self("mountpoints-%u.img", .image(0x5556_3928), .sequence) }
}
extension ImageFile where Entry == NetnsEntry {
    public static var netNamespace: Self { Self("netns-%u.img", .image(0x5593_3752), .single) }
}
extension ImageFile where Entry == NetDeviceEntry {
    public static var netDevices: Self { Self("netdev-%u.img", .image(0x5737_3951), .sequence) }
}
extension ImageFile where Entry == UsernsEntry {
    public static var userNamespace: Self { Self("userns-%u.img", .image(0x5547_4906), .single) }
}
extension ImageFile where Entry == TimensEntry {
    public static var timeNamespace: Self { Self("timens-%u.img", .image(0x4311_4433), .single) }
}
extension ImageFile where Entry == PidnsEntry {
    public static var pidNamespace: Self { Self("pidns-%u.img", .image(0x6115_7326), .single) }
}
extension ImageFile where Entry == AutofsEntry {
    public static var autofs: Self { Self("autofs-%u.img", .image(0x4935_3943), .single) }
}
extension ImageFile where Entry == StatsEntry {
    public static var statsDump: Self { Self("stats-dump", .service(0x5709_3306), .single) }
    public static var statsRestore: Self { Self("stats-restore", .service(0x5709_3306), .single) }
}
extension ImageFile where Entry == IrmapCacheEntry {
    public static var irmapCache: Self { Self("irmap-cache", .service(0x5700_4059), .sequence) }
}
extension ImageFile where Entry == CpuinfoEntry {
    public static var cpuinfo: Self { Self("cpuinfo.img", .image(0x6140_4013), .single) }
}
extension ImageFile where Entry == RegFileEntry {
    public static var regFiles: Self { Self("reg-files.img", .image(0x5036_3636), .sequence) }
}
extension ImageFile where Entry == ExtFileEntry {
    public static var extFiles: Self { Self("ext-files.img", .image(0x5925_5641), .sequence) }
}
extension ImageFile where Entry == NsFileEntry {
    public static var nsFiles: Self { Self("ns-files.img", .image(0x6139_4011), .sequence) }
}
extension ImageFile where Entry == EventfdFileEntry {
    public static var eventfd: Self { Self("eventfd.img", .image(0x4452_3722), .sequence) }
}
extension ImageFile where Entry == EventpollFileEntry {
    public static var eventpoll: Self { Self("eventpoll.img", .image(0x4502_3858), .sequence) }
}
extension ImageFile where Entry == SignalfdEntry {
    public static var signalfd: Self { Self("signalfd.img", .image(0x5732_3820), .sequence) }
}
extension ImageFile where Entry == InotifyFileEntry {
    public static var inotify: Self { Self("inotify.img", .image(0x4842_4431), .sequence) }
}
extension ImageFile where Entry == FanotifyFileEntry {
    public static var fanotify: Self { Self("fanotify.img", .image(0x5509_6122), .sequence) }
}
extension ImageFile where Entry == PipeEntry {
    public static var pipes: Self { Self("pipes.img", .image(0x5651_3555), .sequence) }
}
extension ImageFile where Entry == FifoEntry {
    public static var fifo: Self { Self("fifo.img", .image(0x5836_4939), .sequence) }
}
extension ImageFile where Entry == UnixSkEntry {
    public static var unixsk: Self { Self("unixsk.img", .image(0x5437_3943), .sequence) }
}
extension ImageFile where Entry == InetSkEntry {
    public static var inetsk: Self { Self("inetsk.img", .image(0x5644_3851), .sequence) }
}
extension ImageFile where Entry == PacketSockEntry {
    public static var packetsk: Self { Self("packetsk.img", .image(0x6045_4618), .sequence) }
}
extension ImageFile where Entry == NetlinkSkEntry {
    public static var netlinksk: Self { Self("netlinksk.img", .image(0x5800_5614), .sequence) }
}
extension ImageFile where Entry == TtyFileEntry {
    public static var tty: Self { Self("tty.img", .image(0x5943_3025), .sequence) }
}
extension ImageFile where Entry == TunfileEntry {
    public static var tunfile: Self { Self("tunfile.img", .image(0x5714_3751), .sequence) }
}
extension ImageFile where Entry == TimerfdEntry {
    public static var timerfd: Self { Self("timerfd.img", .image(0x5049_3712), .sequence) }
}
extension ImageFile where Entry == PidfdEntry {
    public static var pidfd: Self { Self("pidfd.img", .image(0x5443_5556), .sequence) }
}
extension ImageFile where Entry == EventpollTfdEntry {
    public static var eventpollTfd: Self { Self("eventpoll-tfd.img", .image(0x4443_3746), .sequence) }
}
extension ImageFile where Entry == InotifyWdEntry {
    public static var inotifyWd: Self { Self("inotify-wd.img", .image(0x5456_2009), .sequence) }
}
extension ImageFile where Entry == FanotifyMarkEntry {
    public static var fanotifyMark: Self { Self("fanotify-mark.img", .image(0x5650_6035), .sequence) }
}
extension ImageFile where Entry == VmaEntry {
    public static var vmas: Self { Self("vmas-%u.img", .image(0x5412_3737), .sequence) }
}
extension ImageFile where Entry == CredsEntry {
    public static var creds: Self { Self("creds-%u.img", .image(0x5402_3547), .single) }
}
extension ImageFile where Entry == SaEntry {
    public static var sigacts: Self { Self("sigacts-%u.img", .image(0x5534_4201), .sequence) }
}
extension ImageFile where Entry == ItimerEntry {
    public static var itimers: Self { Self("itimers-%u.img", .image(0x5746_4056), .sequence) }
}
extension ImageFile where Entry == PosixTimerEntry {
    public static var posixTimers: Self { Self("posix-timers-%u.img", .image(0x5260_3957), .sequence) }
}
extension ImageFile where Entry == RlimitEntry {
    public static var rlimit: Self { Self("rlimit-%u.img", .image(0x5711_3925), .sequence) }
}
extension ImageFile where Entry == SiginfoEntry {
    public static var signalS: Self { Self("signal-s-%u.img", .image(0x5925_5647), .sequence) }
    public static var signalP: Self { Self("signal-p-%u.img", .image(0x5925_5647), .sequence) }
}

// Our own, which CRIU does not look at.
extension ImageFile where Entry == StasisFileChecksum {
    public static var checksums: Self { Self("checksums.img", .image(0x5343_4b31), .sequence) }
}
extension ImageFile where Entry == StasisPageChecksums {
    /// Of pages-N.img, by its number.
    public static var pageChecksums: Self { Self("checksums-%u.img", .image(0x5343_4b32), .payload) }
}

extension ImageKind {
    public static let pages = ImageKind("pages-%u.img", .none, .raw, nil)
    /// Our own, in place of pages-N.img: a reader that does not know it finds no pages, rather than junk.
    public static let compressedPages = ImageKind("compressed-%u.img", .none, .raw, nil)
    /// Our own: pages that are sealed, compressed or not.
    public static let sealedPages = ImageKind("sealed-%u.img", .none, .raw, nil)
    /// Our own: the key of sealed images, for those who may read them; and that of a page server's.
    public static let encryption = ImageKind("encryption.img", .none, .raw, nil)
    public static let pagesEncryption = ImageKind("encryption-of-pages.img", .none, .raw, nil)
    /// Whether it has the content of pages.
    public var isPages: Bool { [Self.pages, .compressedPages, .sealedPages].contains { $0.prefix == prefix } }
    public static let ifaddr = ImageKind("ifaddr-%u.img", .none, .raw, nil)
    public static let route = ImageKind("route-%u.img", .none, .raw, nil)
    public static let route6 = ImageKind("route6-%u.img", .none, .raw, nil)
    public static let rule = ImageKind("rule-%u.img", .none, .raw, nil)
    public static let iptables = ImageKind("iptables-%u.img", .none, .raw, nil)
    public static let ip6tables = ImageKind("ip6tables-%u.img", .none, .raw, nil)
    public static let nftables = ImageKind("nftables-%u.img", .none, .raw, nil)
    public static let netnsCt = ImageKind("netns-ct-%u.img", .none, .raw, nil)
    public static let netnsExp = ImageKind("netns-exp-%u.img", .none, .raw, nil)
    public static let tmpfsDev = ImageKind("tmpfs-dev-%u.tar.gz.img", .none, .raw, nil)
    public static let tmpfs = ImageKind("tmpfs-%u.tar.gz.img", .none, .raw, nil)

    /// All kinds, the longer of two names that could be confused first.
    public static let all: [ImageKind] = [
        ImageFile<InventoryEntry>.inventory.kind,
        ImageFile<PstreeEntry>.pstree.kind,
        ImageFile<SeccompEntry>.seccomp.kind,
        ImageFile<FileEntry>.files.kind,
        ImageFile<FdinfoEntry>.descriptors.kind,
        ImageFile<CoreEntry>.core.kind,
        ImageFile<TaskKobjIdsEntry>.ids.kind,
        ImageFile<MmEntry>.mm.kind,
        ImageFile<FsEntry>.fs.kind,
        ImageFile<PagemapEntry>.pagemap.kind,
        ImageFile<PagemapEntry>.sharedPagemap.kind,
        ImageFile<PipeDataEntry>.pipesData.kind,
        ImageFile<PipeDataEntry>.fifoData.kind,
        ImageFile<SkPacketEntry>.socketQueues.kind,
        ImageFile<TcpStreamEntry>.tcpStream.kind,
        ImageFile<RemapFilePathEntry>.remaps.kind,
        ImageFile<GhostFileEntry>.ghostFile.kind,
        ImageFile<MemfdInodeEntry>.memfds.kind,
        ImageFile<TtyInfoEntry>.ttys.kind,
        ImageFile<TtyDataEntry>.ttyData.kind,
        ImageFile<FileLockEntry>.fileLocks.kind,
        ImageFile<CgroupEntry>.cgroup.kind,
        ImageFile<ApparmorEntry>.apparmor.kind,
        ImageFile<BpfmapFileEntry>.bpfmapFile.kind,
        ImageFile<BpfmapDataEntry>.bpfmapData.kind,
        ImageFile<BinfmtMiscEntry>.binfmtMisc.kind,
        ImageFile<UtsnsEntry>.utsNamespace.kind,
        ImageFile<IpcVarEntry>.ipcVariables.kind,
        ImageFile<IpcShmEntry>.ipcSharedMemory.kind,
        ImageFile<IpcMsgEntry>.ipcMessages.kind,
        ImageFile<IpcSemEntry>.ipcSemaphores.kind,
        ImageFile<MntEntry>.mountpoints.kind,
        ImageFile<NetnsEntry>.netNamespace.kind,
        ImageFile<NetDeviceEntry>.netDevices.kind,
        ImageFile<UsernsEntry>.userNamespace.kind,
        ImageFile<TimensEntry>.timeNamespace.kind,
        ImageFile<PidnsEntry>.pidNamespace.kind,
        ImageFile<AutofsEntry>.autofs.kind,
        ImageFile<StatsEntry>.statsDump.kind,
        ImageFile<StatsEntry>.statsRestore.kind,
        ImageFile<IrmapCacheEntry>.irmapCache.kind,
        ImageFile<CpuinfoEntry>.cpuinfo.kind,
        ImageFile<RegFileEntry>.regFiles.kind,
        ImageFile<ExtFileEntry>.extFiles.kind,
        ImageFile<NsFileEntry>.nsFiles.kind,
        ImageFile<EventfdFileEntry>.eventfd.kind,
        ImageFile<EventpollFileEntry>.eventpoll.kind,
        ImageFile<SignalfdEntry>.signalfd.kind,
        ImageFile<InotifyFileEntry>.inotify.kind,
        ImageFile<FanotifyFileEntry>.fanotify.kind,
        ImageFile<PipeEntry>.pipes.kind,
        ImageFile<FifoEntry>.fifo.kind,
        ImageFile<UnixSkEntry>.unixsk.kind,
        ImageFile<InetSkEntry>.inetsk.kind,
        ImageFile<PacketSockEntry>.packetsk.kind,
        ImageFile<NetlinkSkEntry>.netlinksk.kind,
        ImageFile<TtyFileEntry>.tty.kind,
        ImageFile<TunfileEntry>.tunfile.kind,
        ImageFile<TimerfdEntry>.timerfd.kind,
        ImageFile<PidfdEntry>.pidfd.kind,
        ImageFile<EventpollTfdEntry>.eventpollTfd.kind,
        ImageFile<InotifyWdEntry>.inotifyWd.kind,
        ImageFile<FanotifyMarkEntry>.fanotifyMark.kind,
        ImageFile<VmaEntry>.vmas.kind,
        ImageFile<CredsEntry>.creds.kind,
        ImageFile<SaEntry>.sigacts.kind,
        ImageFile<ItimerEntry>.itimers.kind,
        ImageFile<PosixTimerEntry>.posixTimers.kind,
        ImageFile<RlimitEntry>.rlimit.kind,
        ImageFile<SiginfoEntry>.signalS.kind,
        ImageFile<SiginfoEntry>.signalP.kind,
        ImageFile<BinfmtMiscEntry>.binfmtMiscOfDevice.kind,
        ImageFile<StasisFileChecksum>.checksums.kind, ImageFile<PagemapEntry>.workingSet.kind,
        ImageFile<StasisPageChecksums>.pageChecksums.kind,
        .pages, .compressedPages, .sealedPages, .encryption, .pagesEncryption, .ifaddr, .route, .route6, .rule, .iptables, .ip6tables, .nftables, .netnsCt, .netnsExp, .tmpfsDev, .tmpfs,
    ]
}
