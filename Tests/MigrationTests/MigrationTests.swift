import Foundation
import Glibc
import Kinds
import Linux
@testable import Migration
import Pages
import Testing

@Suite("migration: messages") struct ControlMessageTests {
    @Test("a message comes as it went") func roundTrip() {
        let message = ControlMessage(.verdicts, ["", "ä", String(repeating: "x", count: 300)])
        #expect(Array(message.bytes[..<5]) == [0x3b, 1, 0, 0, 7])
        #expect(ControlMessage(body: Array(message.bytes.dropFirst(4))) == message)
        #expect(ControlMessage(.go).bytes == [1, 0, 0, 0, 12] && message.text(1) == "ä" && message.text(9) == "")
    }

    @Test("pages that are asked for come as they went, and what can't be one question is none") func questions() {
        let ranges: [Range<UInt64>] = [0x1000..<0x3000, 0x3000..<0x4000, 0x10000..<0x11000]
        let wanted = ControlMessage(wanted: ranges, of: 42).wanted
        #expect(wanted?.task == 42 && wanted?.ranges == ranges)
        for bad in [[], [0x3000..<0x4000, 0x1000..<0x2000], [0x1000..<0x1000], [0x1001..<0x2001], [0..<(257 * 4096)], [0..<0x1000, UInt64(1) << 60..<(1 << 60) + 0x1000]] as [[Range<UInt64>]] {
            #expect(ControlMessage(wanted: bad, of: 42).wanted == nil)
        }
        #expect(ControlMessage(.want, ["42", "short"]).wanted == nil && ControlMessage(.want, ["x"]).wanted == nil && ControlMessage(.go).wanted == nil)
    }

    @Test("what is no message is nil, whatever it is") func noise() {
        #expect(ControlMessage(body: []) == nil && ControlMessage(body: [99]) == nil)
        #expect(ControlMessage(body: [1, 1]) == nil && ControlMessage(body: [1, 255, 255, 255, 255, 0]) == nil)
        var random = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            let bytes = (0..<Int.random(in: 0...60, using: &random)).map { _ in UInt8.random(in: 0...12, using: &random) }
            if let message = ControlMessage(body: bytes) { #expect(Array(message.bytes.dropFirst(4)) == bytes) }
        }
    }
}

@Suite("migration: places") struct MigrationPlaceTests {
    @Test("places are read, and written as they were", arguments: [
        ("ssh://me@host", MigrationPlace.ssh(host: "me@host", port: nil, program: nil)), ("ssh://host:22/opt/stasis", .ssh(host: "host", port: 22, program: "/opt/stasis")),
        ("unix:/run/x", .unix(path: "/run/x")), ("host:1", .tcp(host: "host", port: 1)), ("host:7437", .tcp(host: "host", port: 7437)), ("[2001:db8::1]:5", .tcp(host: "2001:db8::1", port: 5)),
    ]) func reads(text: String, place: MigrationPlace) {
        #expect(MigrationPlace(text) == place && place.description == text)
    }
    @Test("a port that is left out is ours") func defaultPort() {
        #expect(MigrationPlace("host") == .tcp(host: "host", port: 7437) && MigrationPlace("::1") == .tcp(host: "::1", port: 7437))
    }
    @Test("what is no place is none", arguments: ["", "unix:", "ssh://", "ssh://-oProxyCommand=x", "host:99999", "[::1", "a b", "/run/x"]) func refuses(text: String) {
        #expect(MigrationPlace(text) == nil)
    }
}

@Suite("migration: when to freeze") struct PreCopyTests {
    private let policy = PreCopy(limit: 300_000_000, maxRounds: 30)
    private let mebibyte: UInt64 = 1 << 20
    /// Rounds one after another: MiB and ms of each.
    private func rounds(_ list: (UInt64, UInt64)...) -> [MigrationRound] {
        var began: UInt64 = 1_000_000_000
        return list.map { bytes, milliseconds in
            defer { began += milliseconds * 1_000_000 }
            return MigrationRound(bytes: bytes << 20, began: began, nanoseconds: milliseconds * 1_000_000)
        }
    }

    @Test("a small tree is frozen after one round") func small() { #expect(policy.next(after: rounds((8, 20))) == .freeze) }
    @Test("a large one is looked at twice") func large() { #expect(policy.next(after: rounds((1024, 1000))) == .again) }
    @Test("less than the limit left: freeze") func converged() { #expect(policy.next(after: rounds((1024, 1000), (100, 520))) == .freeze) }
    @Test("within the limit, but a round would leave less than half: again") func better() {
        #expect(policy.next(after: rounds((1024, 1000), (100, 100))) == .again)
        #expect(policy.next(after: rounds((1024, 1000), (100, 100), (10, 10))) == .freeze)
    }
    @Test("each round leaves clearly less: again") func converging() { #expect(policy.next(after: rounds((10240, 10000), (5120, 5000))) == .again) }
    @Test("as much again as was sent: too busy") func busy() {
        let seen = rounds((1024, 1000), (1000, 1000))
        #expect(policy.next(after: seen) == .tooBusy)
        let estimate = policy.estimate(seen)!
        #expect(estimate.dirtyRate == 1000 * mebibyte && estimate.bandwidth == 1000 * mebibyte && estimate.nanosecondsLeft == 1_000_000_000)
    }
    @Test("not for ever") func bounded() {
        #expect(PreCopy(limit: 0, maxRounds: 2).next(after: rounds((1024, 1000), (512, 500))) == .tooBusy)
        #expect(PreCopy(limit: 0, maxRounds: 0).next(after: []) == .freeze && PreCopy(limit: 0, maxRounds: 1).next(after: []) == .again)
    }
    @Test("a round of nothing says nothing of the connection") func idle() { #expect(policy.next(after: rounds((1024, 1000), (0, 5))) == .freeze) }
}

@Suite("migration: the decision") final class DecisionTests {
    private let folder = "/tmp/stasis-decisions-\(UUID().uuidString)/in"
    private let id = UUID().uuidString.lowercased()
    deinit { try? FileManager.default.removeItem(atPath: (folder as NSString).deletingLastPathComponent) }

    @Test("let run, then asked: it runs") func runs() throws {
        let decision = try Decision(ready: id, folder: folder)
        var ran = 0
        try decision.release { ran += 1 }
        #expect(try Decision.ask(id, folder: folder) == .running && ran == 1)
        decision.abort()
        #expect(try Decision.ask(id, folder: folder) == .running)
    }
    @Test("asked before: it never runs") func aborted() throws {
        let decision = try Decision(ready: id, folder: folder)
        #expect(try Decision.ask(id, folder: folder) == .aborted && Decision.isAborted(id, folder: folder))
        #expect(throws: CheckpointError.self) { try decision.release { Issue.record("it runs") } }
    }
    @Test("asked for what is not known: it never will run") func unknown() throws {
        #expect(try Decision.ask(id, folder: folder) == .aborted)
        #expect(throws: CheckpointError.self) { _ = try Decision(ready: self.id, folder: self.folder) }
    }
    @Test("memory that follows is settled once, and only of a tree that runs", arguments: [true, false]) func memory(isWhole: Bool) throws {
        let decision = try Decision(ready: id, folder: folder)
        #expect(throws: CheckpointError.self) { try decision.settleMemory(isWhole: isWhole) }
        try decision.release {}
        try decision.settleMemory(isWhole: isWhole)
        #expect(try Decision.ask(id, folder: folder) == (isWhole ? .whole : .lost))
        #expect(throws: CheckpointError.self) { try decision.settleMemory(isWhole: !isWhole) }
    }
    @Test("who let it run died in the middle: nobody can tell") func died() throws {
        _ = try Decision(ready: id, folder: folder)
        try Data("releasing       ".utf8).write(to: URL(fileURLWithPath: folder + "/" + id))
        #expect(try Decision.ask(id, folder: folder) == .unknown)
    }
    @Test("an id is no path", arguments: ["", "../../etc/passwd", String(repeating: "/", count: 36)]) func paths(id: String) {
        #expect(throws: CheckpointError.self) { try Decision.ask(id, folder: self.folder) }
    }
    @Test("of two that settle at once one wins") func race() throws {
        for _ in 0..<50 {
            let id = UUID().uuidString.lowercased(), folder = folder
            let decision = try Decision(ready: id, folder: folder)
            let asked = DispatchGroup()
            final class Answer: @unchecked Sendable { var value: Decision.Answer? }
            let answer = Answer()
            DispatchQueue.global().async(group: asked) { answer.value = try? Decision.ask(id, folder: folder) }
            var ran = false
            try? decision.release { ran = true }
            asked.wait()
            #expect(answer.value == (ran ? .running : .aborted))
        }
    }
}

@Suite("migration: the connection") struct ControlConnectionTests {
    final class Scratch {
        let path = "/tmp/stasis-images-\(UUID().uuidString)"
        let descriptor: FileDescriptor
        init() throws {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
            descriptor = try FileDescriptor.open(path, O_RDONLY | O_DIRECTORY)
        }
        deinit { try? FileManager.default.removeItem(atPath: path) }
        var names: [String] { ((try? Files.names(in: path)) ?? []).sorted() }
    }
    private func pair() throws -> (ControlConnection, ControlConnection) {
        let (a, b) = try FileDescriptor.socketPair(1, 1)
        for end in [a, b] { try end.setOption(SocketOption.sendBuffer, to: Int32(1 << 20)) }
        return (ControlConnection(PageConnection(a), to: "the destination"), ControlConnection(PageConnection(b), to: "the source"))
    }

    @Test("images arrive, and only images") func images() throws {
        let from = try Scratch(), to = try Scratch()
        let contents = ["core-1.img": Data([1, 2, 3]), "inventory.img": Data(), "ghost-file-1.img": Data(repeating: 7, count: 300_001)]
        for (name, data) in contents { try data.write(to: URL(fileURLWithPath: from.path + "/" + name)) }
        try Data([9]).write(to: URL(fileURLWithPath: from.path + "/stats-dump"))
        let (source, destination) = try pair()
        #expect(try ImageTransfer.send(from.descriptor, over: source) == 300_004)
        for _ in contents { try ImageTransfer.receive(try destination.expect(.file), into: to.descriptor, over: destination) }
        #expect(to.names == contents.keys.sorted())
        for (name, data) in contents { #expect(FileManager.default.contents(atPath: to.path + "/" + name) == data) }
    }

    @Test("no other file is written", arguments: ["../core-1.img", "/tmp/core-1.img", "parent", "core-1.img.tmp", "a/b.img", ".img", "core-1.img"]) func names(name: String) throws {
        let to = try Scratch(), (source, destination) = try pair()
        if name == "core-1.img" { try Data().write(to: URL(fileURLWithPath: to.path + "/" + name)) }  // there already
        try source.send(ControlMessage(.file, [name, "0"]))
        #expect(throws: CheckpointError.self) { try ImageTransfer.receive(try destination.expect(.file), into: to.descriptor, over: destination) }
        #expect(to.names == (name == "core-1.img" ? [name] : []))
    }

    @Test("an error is thrown at the other end in its words") func refusal() throws {
        let (source, destination) = try pair()
        try destination.send(ControlMessage(refusal: CheckpointError("write", .image("core-1.img"), "no room", remedy: "make room")))
        #expect { try source.expect(.welcome) } throws: { "\($0)" == "cannot write image core-1.img there: no room\n  try: make room" }
    }

    @Test("who is no source of this version is sent away", arguments: [
        ["stasis migration", "99", "migrate"], ["something else", "1", "migrate"], ["stasis migration", "1", "rule"], [],
    ]) func greetings(fields: [String]) throws {
        let (ours, its) = try FileDescriptor.socketPair(1, 1)
        let source = ControlConnection(PageConnection(ours), to: "the destination")
        try source.send(ControlMessage(.hello, fields.isEmpty ? [] : fields + [UUID().uuidString.lowercased()]))
        let migration = try IncomingMigration()
        #expect(throws: CheckpointError.self) { try migration.serve(its) }
        #expect(try source.receive().kind == .refused && !migration.hasBegun)
    }

    @Test("noise in place of a greeting is refused") func noise() throws {
        for bytes in [Array("GET / HTTP/1.1\r\n\r\n".utf8), [0, 0, 0, 0], [255, 255, 255, 255], [4, 0, 0, 0, 1, 9, 9]] {
            let (ours, its) = try FileDescriptor.socketPair(1, 1)
            try ours.write(bytes)
            try ours.shutdown(1)
            #expect(throws: CheckpointError.self) { try IncomingMigration().serve(its) }
        }
    }

    @Test("a source that asks is told, and a migration that nobody knows will not run") func outcome() throws {
        let (ours, its) = try FileDescriptor.socketPair(1, 1), id = UUID().uuidString.lowercased()
        defer { try? Files.unlink(Decision.folder + "/" + id) }
        let source = ControlConnection(PageConnection(ours), to: "the destination")
        try source.send(ControlMessage(.hello, [ControlMessage.magic, "1", "outcome", id]))
        #expect(try IncomingMigration().serve(its) == nil)
        #expect(try source.expect(.outcome).text(0) == "aborted")
    }
}
