import CLinux
import Foundation
import Glibc
@testable import Graft
import Linux
import Testing

/// A child of this process that the tests may stop and graft: a shell or any other program, ended when the value goes.
final class Victim {
    let process: Process
    var id: ThreadID { ThreadID(process.processIdentifier) }
    init(_ command: String) throws {
        process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-c", command]
        process.standardOutput = FileHandle.nullDevice
        try process.run()
        usleep(100_000)
    }
    deinit { kill(id.rawValue, SIGKILL); process.waitUntilExit() }

    func stopped(_ body: (TracedTask) throws -> Void) throws {
        let task = try TracedTask.seize(id, [.systemCallsMarked])
        try task.interrupt()
        #expect(try task.wait() == .stopped(SIGTRAP))
        try body(task)
        task.detach()
    }
    var maps: [String] { get throws { try Mapping.all(of: id, withFlags: false).map { "\($0.start)-\($0.end) \($0.protection) \($0.name)" } } }
}

@Suite("graft", .serialized) struct GraftTests {
    @Test("a batch runs in the task, results feed later calls, and nothing is left behind")
    func batch() throws {
        let victim = try Victim("exec sleep 30")
        let before = try victim.maps
        let status = try Proc.status(victim.id)["SigBlk"]
        try victim.stopped { task in
            let registers = try task.registers()
            let graft = try ProcessGraft(in: victim.id, mappings: try Mapping.all(of: victim.id, withFlags: false))
            let grafted = try graft.enter(task)
            var batch = grafted.batch()
            let pid = batch.call("getpid", SYS_getpid)
            let opened = batch.call("openat", SYS_openat, .init(AT_FDCWD), batch.string("/dev/zero"), 0)
            let buffer = batch.bytes([1, 2, 3, 4, 5, 6, 7, 8])
            batch.readBack = true
            let got = batch.call("read", SYS_read, .result(opened), buffer.argument, 5)
            batch.call("close", SYS_close, .result(opened))
            let bad = batch.call("close", SYS_close, 999, mayFail: true)
            try grafted.run(&batch)
            #expect(batch.result(pid) == Int(victim.id.rawValue))
            #expect(batch.result(got) == 5 && batch.bytes(of: buffer) == [0, 0, 0, 0, 0, 6, 7, 8])
            #expect(batch.result(bad) == -Int(EBADF))
            var failing = grafted.batch()
            failing.call("close", SYS_close, 998)
            failing.call("getpid", SYS_getpid)
            #expect(throws: SyscallError.self) { try grafted.run(&failing) }
            try graft.remove()
            let after = try task.registers()
            #expect(after.rip == registers.rip && after.rax == registers.rax && after.rsp == registers.rsp)
        }
        #expect(try victim.maps == before)
        #expect(try Proc.status(victim.id)["SigBlk"] == status)
    }

    @Test("a signal of somebody else's does not end a batch, also where it is the one that a graft parks with", arguments: [SIGURG, SIGWINCH, SIGCHLD, SIGCONT])
    func foreignSignal(signal: Int32) throws {
        let victim = try Victim("exec sleep 30")
        try victim.stopped { task in
            let graft = try ProcessGraft(in: victim.id, mappings: try Mapping.all(of: victim.id, withFlags: false))
            let grafted = try graft.enter(task)
            for _ in 0..<20 {
                kill(victim.id.rawValue, signal)
                var batch = grafted.batch()
                let pid = batch.call("getpid", SYS_getpid)
                try grafted.run(&batch)
                #expect(batch.result(pid) == Int(victim.id.rawValue))
            }
            try graft.remove()
        }
    }

    @Test("without its tracer a grafted task cleans up and goes on by itself")
    func orphan() throws {
        let victim = try Victim("exec sleep 30")
        let before = try victim.maps
        let descriptors = try Proc.descriptors(of: victim.id)
        try victim.stopped { task in
            let graft = try ProcessGraft(in: victim.id, mappings: try Mapping.all(of: victim.id, withFlags: false))
            let grafted = try graft.enter(task)
            var batch = grafted.batch()
            let opened = batch.call("openat", SYS_openat, .init(AT_FDCWD), batch.string("/dev/zero"), 0)
            try grafted.run(&batch)
            try grafted.setCleanup(closing: [Int32(batch.result(opened))])
            task.detach()  // as if we had been killed
            graft.abandon()
        }
        usleep(50_000)
        #expect(try victim.maps == before)
        #expect(try Proc.descriptors(of: victim.id) == descriptors)
        #expect(try Proc.status(victim.id)["State"] == "S (sleeping)")
        // What it left in the vDSO is recognised and used again.
        try victim.stopped { task in
            let graft = try ProcessGraft(in: victim.id, mappings: try Mapping.all(of: victim.id, withFlags: false))
            _ = try graft.enter(task)
            try graft.remove()
        }
        #expect(try victim.maps == before)
    }

    @Test("the stub starts with the id it is given and runs batches in its workspace")
    func stub() throws {
        let address: UInt64 = 0x5000_0000_0000
        let wanted = ThreadID(30111)
        let task = try Stub.start(at: address, pid: wanted)
        #expect(task.id == wanted)
        let workspace = try Workspace.make(in: task, at: address + 4096)
        var batch = workspace.batch()
        let pid = batch.call("getpid", SYS_getpid)
        try workspace.run(&batch)
        #expect(batch.result(pid) == 30111)
        kill(task.id.rawValue, SIGKILL)
        while case .some(let event) = try task.wait() { if case .killed = event { break } }
    }
}
