import CLinux
import Glibc
import Graft
package import ImageMessages
package import Linux

/// What belongs to a process as a whole and has a file below /proc/PID: OOM score, core dump filter, autogroup, login id.
package enum ProcessAttributes {
    static func dump(of process: ThreadID, into core: inout TaskCoreEntry) throws {
        func text(_ name: String) -> String? {
            (try? Files.readAtOnce("/proc/\(process)/\(name)")).map { String(decoding: $0.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self) }
        }
        if let value = text("loginuid").flatMap({ UInt32($0) }) { core.loginuid = value }
        if let value = text("oom_score_adj").flatMap({ Int32($0) }) { core.oomScoreAdj = value }
        // 0x33 is every process's from the start (core(5)).
        if let value = text("coredump_filter").flatMap({ UInt32($0, radix: 16) }), value != 0x33 { core.stasis.coredumpFilter = value }
        // "/autogroup-25 nice 0" (sched(7))
        if let value = text("autogroup")?.split(separator: " ").last.flatMap({ Int64($0) }), value != 0 { core.stasis.autogroup = value }
    }

    private static func tooSafe(_ score: Int32, _ process: ThreadID) -> CheckpointError {
        CheckpointError("restore", .task(process), "its OOM score adjustment \(score) is below ours", remedy: "restore with CAP_SYS_RESOURCE")
    }

    /// What `restore` would refuse. How low a score may be the kernel tells nobody: tried on ourselves, for a moment.
    package static func check(_ core: TaskCoreEntry, of process: ThreadID) throws {
        let own = "/proc/self/oom_score_adj"
        guard core.hasOomScoreAdj, let now = try? Files.text(own), let score = now.split(separator: "\n").first.flatMap({ Int32($0) }), core.oomScoreAdj < score else { return }
        guard (try? Files.write("\(core.oomScoreAdj)", to: own)) != nil else { throw tooSafe(core.oomScoreAdj, process) }
        try? Files.write("\(score)", to: own)
    }

    /// Written by us, who may (raising the OOM score's minimum needs CAP_SYS_RESOURCE); values that hold already are left alone.
    static func restore(_ core: TaskCoreEntry, to process: ThreadID, log: (String) -> Void) throws {
        func write(_ value: String, to name: String) throws {
            let path = "/proc/\(process)/\(name)"
            if (try? Files.text(path)) == value + "\n" { return }
            let file = try FileDescriptor.open(path, O_WRONLY)
            try file.write(Array(value.utf8))
        }
        if core.hasOomScoreAdj {
            guard (-1000...1000).contains(core.oomScoreAdj) else { throw CheckpointError("restore", .object("the OOM score"), "\(core.oomScoreAdj) is none") }
            do { try write("\(core.oomScoreAdj)", to: "oom_score_adj") }
            catch let error as SyscallError where error.errno == Errno(EACCES) || error.errno == Errno(EPERM) {
                throw tooSafe(core.oomScoreAdj, process)
            }
        }
        if core.hasStasis, core.stasis.hasCoredumpFilter { try write("0x" + String(core.stasis.coredumpFilter, radix: 16), to: "coredump_filter") }
        if core.hasStasis, core.stasis.hasAutogroup {
            do { try write("\(core.stasis.autogroup)", to: "autogroup") } catch { log("the nice value of the autogroup is not restored: \(error)") }
        }
    }
}
