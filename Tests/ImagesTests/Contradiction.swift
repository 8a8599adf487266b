import Foundation
import ImageMessages
import Images
import SwiftProtobuf

/// A change to a golden directory after which it must not be restored, and the place that the error must name.
struct Contradiction: Sendable, CustomStringConvertible {
    let fixture: String
    let file: String
    let field: String?
    let edit: @Sendable (Scratch) throws -> Void
    var description: String { "\(fixture): \(file) \(field ?? "")" }

    init(_ fixture: String, _ file: String, _ field: String?, _ edit: @escaping @Sendable (Scratch) throws -> Void) {
        (self.fixture, self.file, self.field, self.edit) = (fixture, file, field, edit)
    }

    private static func inventory(_ field: String, _ change: @escaping @Sendable (inout InventoryEntry) -> Void) -> Contradiction {
        Contradiction("simple", "inventory.img", field) { try $0.edit(.inventory, 0, change) }
    }
    private static func pstree(_ field: String, _ change: @escaping @Sendable (inout [PstreeEntry]) -> Void) -> Contradiction {
        Contradiction("simple", "pstree.img", field) { try $0.editAll(.pstree, 0, change) }
    }
    private static func core(_ field: String, _ change: @escaping @Sendable (inout CoreEntry) -> Void) -> Contradiction {
        Contradiction("simple", "core-28540.img", field) { try $0.edit(.core, 28540, change) }
    }
    private static func mm(_ field: String, _ change: @escaping @Sendable (inout MmEntry) -> Void) -> Contradiction {
        Contradiction("simple", "mm-28540.img", field) { try $0.edit(.mm, 28540, change) }
    }
    private static func pagemap(_ field: String, _ change: @escaping @Sendable (inout [PagemapEntry]) -> Void) -> Contradiction {
        Contradiction("simple", "pagemap-28540.img", field) { try $0.editPagemap(28540, change) }
    }
    private static func files(_ fixture: String, _ type: FdTypes, _ field: String, _ change: @escaping @Sendable (inout FileEntry) -> Void) -> Contradiction {
        Contradiction(fixture, "files.img", field) { try $0.editAll(.files) { change(&$0[$0.firstIndex { $0.type == type }!]) } }
    }

    static let all: [Contradiction] = [
        inventory("img_version") { $0.imgVersion = 3 },
        inventory("img_version") { $0.imgVersion = 0 },
        inventory("fdinfo_per_id") { $0.fdinfoPerID = false },
        inventory("root_ids") { $0.clearRootIds() },
        pstree("pid") { $0[0].pid = 0 },
        pstree("pid") { $0[0].pid = 5 << 20 },
        pstree("ppid") { $0[0].ppid = 1 },
        pstree("ppid") { $0.append($0[0]); $0[1].pid = 7; $0[1].threads = [7]; $0[1].ppid = 8 },
        pstree("threads") { $0[0].threads = [] },
        pstree("threads") { $0[0].threads = [7] },
        pstree("threads") { $0[0].threads.append($0[0].pid) },
        core("tc") { $0.clearTc() },
        core("tc.task_state") { $0.tc.taskState = 4 },
        core("tc.comm") { $0.tc.comm = "a name that is too long" },
        core("tc.comm") { $0.tc.comm = "a\0b" },
        core("tc.timers") { $0.tc.clearTimers() },
        core("tc.rlimits") { $0.tc.clearRlimits() },
        core("tc.rlimits") { $0.tc.rlimits.rlimits.append($0.tc.rlimits.rlimits[0]) },
        core("tc.sigactions") { $0.tc.sigactions.removeLast() },
        core("tc.oom_score_adj") { $0.tc.oomScoreAdj = 1001 },
        core("tc.signals_s.signals[0].siginfo") { $0.tc.signalsS.signals = [.with { $0.siginfo = .init([1, 2]) }] },
        core("mtype") { $0.mtype = .aarch64 },
        core("thread_info") { $0.clearThreadInfo() },
        core("thread_info.fpregs.st_space") { $0.threadInfo.fpregs.stSpace.removeLast() },
        core("thread_info.fpregs.xmm_space") { $0.threadInfo.fpregs.xmmSpace = [] },
        core("thread_info.fpregs.xsave.ymmh_space") { $0.threadInfo.fpregs.xsave.ymmhSpace = [1] },
        core("thread_core") { $0.clearThreadCore() },
        core("thread_core.creds") { $0.threadCore.clearCreds() },
        core("thread_core.creds.cap_eff") { $0.threadCore.creds.capPrm = [0, 0] },
        core("thread_core.sched_prio") { $0.threadCore.schedPolicy = 1 },
        core("thread_core.sched_nice") { $0.threadCore.schedNice = 20 },
        core("thread_core.seccomp_filter") { $0.threadCore.seccompFilter = 3 },
        core("thread_core.cg_set") { $0.threadCore.cgSet = 77 },
        mm("vmas") { $0.vmas = [] },
        mm("exe_file_id") { $0.exeFileID = 999 },
        mm("vmas[1].start") { $0.vmas.swapAt(0, 1) },
        mm("vmas[0].end") { $0.vmas[0].end += 1 },
        mm("vmas[0].end") { $0.vmas[0].end = 0 },
        mm("vmas[0].shmid") { $0.vmas[0].shmid = 1 << 40 },
        mm("dumpable") { $0.dumpable = 3 },
        mm("vma_names[0].start") { $0.vmaNames = [.with { $0.start = 1 }] },
        pagemap("vaddr") { $0[0].vaddr += 1 },
        pagemap("vaddr") { $0.swapAt(0, 1) },
        pagemap("vaddr") { $0[0].vaddr = 0x1000 },
        pagemap("flags") { $0[0].flags = 0x80 },
        pagemap("flags") { $0[0].flags = 0 },
        pagemap("nr_pages") { $0[0].nrPages = .max },
        pagemap("vaddr") { $0[0].flags = 1 },
        Contradiction("simple", "ids-28540.img", "files_id") { try $0.edit(.ids, 28540) { $0.filesID = 1 } },
        Contradiction("simple", "fs-28540.img", "cwd_id") { try $0.edit(.fs, 28540) { $0.cwdID = 999 } },
        Contradiction("simple", "fdinfo-2.img", "fd") { try $0.editAll(.descriptors, 2) { $0[1].fd = $0[0].fd } },
        Contradiction("simple", "fdinfo-2.img", "id") { try $0.edit(.descriptors, 2) { $0.id = 999 } },
        Contradiction("simple", "fdinfo-2.img", "type") { try $0.edit(.descriptors, 2) { $0.type = .pipe } },
        Contradiction("simple", "files.img", "id") { try $0.editAll(.files) { $0.append($0[0]) } },
        files("files", .eventfd, "type") { $0.content = nil },
        files("files", .eventfd, "efd.id") { $0.efd.id = 999 },
        files("files", .reg, "reg.name") { $0.reg.name = "relative" },
        files("files", .reg, "reg.name") { $0.reg.name = "/a\0b" },
        files("files", .memfd, "memfd.inode_id") { $0.memfd.inodeID = 999 },
        files("tree", .tty, "tty.tty_info_id") { $0.tty.ttyInfoID = 999 },
        files("sockets", .unixsk, "usk.type") { $0.usk.type = 9 },
        files("sockets", .unixsk, "usk.name") { $0.usk.name = .init(repeating: 65, count: 200) },
        files("sockets", .inetsk, "isk.src_addr") { $0.isk.srcAddr = [] },
        files("sockets", .inetsk, "isk.dst_port") { $0.isk.dstPort = 70000 },
        Contradiction("files", "remap-fpath.img", "orig_id") { try $0.edit(.remaps) { $0.origID = 999 } },
        Contradiction("files", "ghost-file-1.img", nil) { try $0.remove("ghost-file-1.img") },
        Contradiction("files", "pipes-data.img", "packets") { scratch in
            let data = try scratch.directory.pipeData().map { ($0.entry, try scratch.directory.read($0.payload)) }
            let writer = try ImageWriter(directory: scratch.directory.descriptor, name: "pipes-data.img")
            for (index, (entry, bytes)) in data.enumerated() {
                var entry = entry
                if index == 0 { entry.packets = [1] }
                try writer.append(entry)
                try writer.appendRaw(bytes)
            }
            try writer.finish(sync: false)
        },
        Contradiction("files", "filelocks.img", "pid") { try $0.edit(.fileLocks) { $0.pid = 7 } },
        Contradiction("files", "filelocks.img", "fd") { try $0.edit(.fileLocks) { $0.fd = -1 } },
        Contradiction("cgroup", "cgroup.img", "sets[0].ctls[0].path") { try $0.edit(.cgroup) { $0.sets[0].ctls[0].path = "/a/../../b" } },
        Contradiction("threads", "seccomp.img", "seccomp_filters[0].filter") { try $0.edit(.seccomp) { $0.seccompFilters[0].filter = .init([1]) } },
        Contradiction("threads", "seccomp.img", "seccomp_filters[0].prev") { try $0.edit(.seccomp) { $0.seccompFilters[0].prev = 0 } },
        Contradiction("tree", "tty-info.img", "id") { try $0.editAll(.ttys) { $0.append($0[0]) } },
    ]
}
