import CLinux
import Glibc
import ImageMessages
import Images
import Kinds
import Linux

/// `restore --check-only`: the plan of a restore held against this machine. It makes nothing and runs no hook. Each thing is looked at by
/// the function that the restore itself asks, so a cause found here has the words that the restore would end with.
package struct RestoreCheck {
    private let request: Restore.Request
    private var report = CheckReport("restore")

    /// - Parameter pidFile: the file that the restore would make.
    package static func run(_ request: Restore.Request, pidFile: String? = nil) -> CheckReport {
        var check = Self(request: request)
        check.lookAtCaller()
        if let pidFile, (try? Files.status(pidFile)) != nil {
            check.refused(CheckpointError("write", .file(pidFile), "\(SyscallError("openat", .path(pidFile), EEXIST))", remedy: PidFileWords.remedy, errno: Errno(EEXIST)))
        }
        do { try check.lookAtImages() } catch { check.refused(error) }
        return check.report
    }

    private init(request: Restore.Request) { self.request = request }

    private mutating func refused(_ error: any Error, about object: String = "the images") { report.verdicts.append(Verdict(error, about: object)) }
    private mutating func fine(_ object: String, _ text: String) { report.verdicts.append(Verdict(ok: object, text)) }
    private mutating func doubtful(_ object: String, _ text: String, remedy: String? = nil) {
        report.verdicts.append(Verdict(warning: object, text, remedy: remedy))
    }
    /// `body` throws what the restore would.
    private mutating func look(_ object: String, _ found: String, _ body: () throws -> Void) {
        do {
            try body()
            fine(object, found)
        } catch { refused(error, about: object) }
    }

    private mutating func lookAtImages() throws {
        let request = request
        let images = try ImageDirectory(request.images, request.secrets)
        if let rules = request.settings.processor {
            look("this CPU", "it has what the images need") { try Restore.checkProcessor(images, rules, request.log) }
        }
        let verification = request.settings.verifies ? Verification() : nil
        let input = try Restore.read(images, request, verification)
        fine("the images", "\(input.members.count) tasks, consistent" + (input.inventory.stasis.checkOnly ? "; of a dump that only checked, without content" : ""))
        let context = RestoreContext(settings: request.settings, log: request.log, images: images, files: input.files, checksOnly: true)
        context.plugins = request.plugins

        if let verification, let set = input.processes.values.first?.set, !set.pages.isWithoutContent {
            try verification.addPages(of: set.pages, set)
            let problems = verification.problems()
            for error in problems { refused(CheckpointError("restore", error)) }
            if problems.isEmpty { fine("checksums", "\(verification.count.files) images and \(verification.count.pages) pages are as they were dumped") }
        }
        look("plugins", "none is missing") { try request.plugins.check(input.inventory, request.images) }
        lookAtTree(input)
        lookAtMemory(input)
        for (pid, process) in input.processes.sorted(by: { $0.key < $1.key }) { lookAtState(of: ThreadID(pid), process) }
        do {
            // A new one is really made, with all that it is to have: nobody sees it, and it goes when we leave it.
            let network = try input.network(request.settings), stay = try network.enter(context)
            defer { stay?.leave() }
            if let stay {
                if network.isNew { try network.restore(stay, context) }
                fine("the network namespace", network.isNew ? "it can be made" : "it can be entered")
            }
            try lookAtFiles(input, context)
        } catch { refused(error) }
        for finding in context.findings {
            switch finding {
            case .fine(let object, let text): fine(object, text)
            case .doubtful(let object, let text, let remedy): doubtful(object, text, remedy: remedy)
            case .refused(let error): refused(error)
            }
        }
    }

    // MARK: tasks

    private mutating func lookAtTree(_ input: RestoreInput) {
        do {
            let plan = try TreePlan(input.members, shellJob: request.settings.shellJob)
            fine("the tree", "\(plan.steps.count) steps make it")
            let taken = plan.ids.sorted().compactMap(RestoreInput.taken)
            for error in taken { refused(error) }
            if taken.isEmpty { fine("the ids of its tasks", "all \(plan.ids.count) are free") }
            let forbidden = CallerRights.refusals(input, plan)
            for error in forbidden { refused(error) }
            if forbidden.isEmpty { fine("the caller", "it may give the tasks their ids, users, groups and capabilities") }
        } catch { refused(error) }
    }

    private mutating func lookAtMemory(_ input: RestoreInput) {
        let processes = input.processes.values.map { (pid: $0.pid, bytes: $0.pages.bytes) }
        let sum = processes.reduce(0) { $0 + $1.bytes }
        look("memory", "\(Quantity.bytes(sum)) in the images") { try MemoryRoom.check(processes) }
        if let room = MemoryRoom.Room.here, sum > room.available, processes.allSatisfy({ $0.bytes <= room.total }) {
            doubtful("memory", "the images have \(Quantity.bytes(sum)), of which processes may share a part; \(Quantity.bytes(room.available)) are free", remedy: "free memory, or add swap space")
        }
        for error in KernelNeeds.refusals(input) { refused(error) }
        look("address spaces", "there is a hole for the restore itself") {
            _ = try MemoryPlan.commonHole(input.processes.values.map(\.mm), size: MemoryRestorer.Places.size)
        }
        let own = (try? Mapping.all(of: .current, withFlags: false)) ?? []
        let special = own.filter { $0.name.hasPrefix("[vvar") || $0.name == "[vdso]" }.map { (length: $0.length, isCode: $0.name == "[vdso]") }
        // Images of a check have no pages, which alone tell one kernel's vDSO from another's.
        for (pid, process) in input.processes.sorted(by: { $0.key < $1.key }) where !input.inventory.stasis.checkOnly {
            do {
                let plan = MemoryPlan(process.mm, parent: nil, reserved: 0..<0)
                if try ForeignVDSO(plan, process, special: special, reserved: 0..<0) != nil { fine("the vDSO of task \(pid)", "it is another kernel's, and leads on to this one's") }
            } catch { refused(error) }
        }
    }

    private mutating func lookAtState(of pid: ThreadID, _ process: ProcessImages) {
        look("registers of task \(pid)", "this CPU has them") {
            for (thread, core) in (process.endedLeader == nil ? [(pid.rawValue, process.core)] : []) + process.threads {
                try CheckpointError.about("restore", .task(pid)) { try RestoredRegisters.check(core.threadInfo, of: ThreadID(thread)) }
            }
        }
        for cut in ResourceLimits.cuts(process.core.tc.rlimits) { doubtful("task \(pid)", cut) }
        look("OOM score of task \(pid)", "it can be set") { try ProcessAttributes.check(process.core.tc, of: pid) }
    }

    // MARK: files

    private mutating func lookAtFiles(_ input: RestoreInput, _ context: RestoreContext) throws {
        let byType = try input.filesInUse(context)
        for type in byType.keys where !OpenFileKinds.all.contains(where: { $0.type == type }) { refused(Restore.unknownType(type)) }
        for kind in OpenFileKinds.all { if let entries = byType[kind.type] { look(kind, entries, context) } }
        var seen = Set<UInt32>()
        for process in input.processes.values.sorted(by: { $0.pid < $1.pid }) {
            if let program = context.files[process.mm.exeFileID], program.hasReg, seen.insert(program.id).inserted {
                try PathFiles.check(program.reg, flags: UInt32(O_RDONLY), context)
            }
            for mapping in process.mm.vmas where mapping.needsFile && !mapping.statusBits.contains(.memfd) {
                let id = UInt32(truncatingIfNeeded: mapping.shmid)
                if let file = context.files[id], file.hasReg, seen.insert(id).inserted { try PathFiles.check(file.reg, flags: mapping.fdflags, context) }
            }
            try FileSystemContext.check(process.fs, context)
        }
        try SysVSharedMemory.check(context)
        do {
            let locks = try FileLockRestore(context)
            for pid in locks.processes {
                let table = input.processes[pid].flatMap { input.tables[$0.ids.filesID] } ?? []
                try locks.check(pid, files: Dictionary(table.map { (Int32(bitPattern: $0.fd), $0.id) }, uniquingKeysWith: { a, _ in a }), context)
            }
        } catch { refused(error) }
        do { _ = try CgroupRestore(image: input.cgroups, own: input.inventory.rootCgSet, request.settings.cgroups, context) } catch { refused(error) }
    }

    private mutating func look(_ kind: any OpenFileKind.Type, _ entries: [FileEntry], _ context: RestoreContext) {
        do { try kind.check(entries, context) } catch { refused(error) }
    }

    // MARK: ourselves

    private mutating func lookAtCaller() {
        for feature in KernelFeature.all where feature.grade == .required && !feature.isThere {
            doubtful("the kernel", "\(feature.name) is missing (\(feature.purpose))")
        }
        for (descriptor, key) in request.settings.inherited where fcntl(descriptor, F_GETFD) == -1 {
            refused(SyscallError("fcntl(F_DUPFD_CLOEXEC)", .fd(descriptor), EBADF), about: "--inherit-fd \(key)")
        }
    }
}

/// The words about `--pidfile` that check and restore share.
package enum PidFileWords {
    package static let remedy = "remove it if no tree uses it, or give --pidfile another name"
}
