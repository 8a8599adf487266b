import CLinux
import Glibc
import Graft
import ImageMessages
import Images
@testable import Kinds
import Linux

/// A fresh task such as a restore begins with, standing in its graft; ended when the value goes.
final class StubTask {
    let grafted: GraftedTask
    var id: ThreadID { grafted.process }

    init() throws {
        let address: UInt64 = 0x5000_0000_0000
        let task = try Stub.start(at: address, pid: nil)
        grafted = try Workspace.make(in: task, at: address + 4096)
    }
    deinit {
        kill(id.rawValue, SIGKILL)
        while let event = try? grafted.task.wait() { if case .killed = event { break } }
    }

    @discardableResult
    func run<Value>(_ build: (inout Batch) throws -> Value) throws -> (Value, Batch) {
        var batch = grafted.batch()
        let value = try build(&batch)
        try grafted.run(&batch)
        return (value, batch)
    }

    /// Memory of its own, for what a kind wants to point to.
    func map(_ size: Int) throws -> UInt64 {
        let (call, batch) = try run { $0.call("mmap", SYS_mmap, 0, .init(size), 3, 0x22, .init(-1), 0) }
        return UInt64(batch.result(call))
    }

    func context() throws -> RestoreContext {
        let images = try ImageDirectory(try FileDescriptor.open("/tmp", O_RDONLY | O_DIRECTORY))
        return RestoreContext(settings: RestoreSettings(), log: Log(level: .silent), images: images, files: [:])
    }

    /// All that a restore sets but registers, in its order.
    func restore(_ core: CoreEntry, _ mm: MmEntry, filters: SeccompEntry = SeccompEntry()) throws {
        let context = try context()
        try TaskStateRestore.byConductor(core.tc, of: id, context)
        try run { try TaskStateRestore.processEarly(core, mm, &$0) }
        try run { try TaskStateRestore.threadEarly(core, &$0) }
        try run { try TaskStateRestore.processLate(core, mm, &$0) }
        try run { try TaskStateRestore.threadLate(core, leader: core, mm: mm, isLeader: true, thread: id, process: id, filters: filters, context, &$0) }
    }

    /// What a dump reads.
    func dump() throws -> (core: CoreEntry, mm: MmEntry) {
        var core = CoreEntry(), mm = MmEntry()
        let ((process, thread), batch) = try run { (try ProcessQuestions(&$0, process: id), ThreadQuestions(&$0, thread: id, status: try Proc.status(id))) }
        try process.fill(&core.tc, &mm, batch)
        var state = ThreadCoreEntry(), info = ThreadInfoX86()
        try thread.fill(&state, &info, batch)
        (core.threadCore, core.threadInfo) = (state, info)
        return (core, mm)
    }
}
