import Foundation
import Glibc
import Linux
import Testing

@testable import Checkpoint

@Suite("action scripts") final class ActionScriptsTests {
    private let directory: String
    private let images: FileDescriptor

    init() throws {
        directory = NSTemporaryDirectory() + "stasis-scripts-\(UUID())"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        images = try FileDescriptor.open(directory, O_RDONLY | O_DIRECTORY)
    }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    private func script(_ name: String, _ body: String) throws -> String {
        let path = directory + "/" + name
        try ("#!/bin/sh\n" + body + "\n").write(toFile: path + ".text", atomically: false, encoding: .utf8)
        // Another program makes the script: while we had it open for writing, a fork of a test beside us would hold it (ETXTBSY).
        #expect(try Program.wait(for: Program.start("install", ["-m", "755", path + ".text", path])) == .exited(0))
        return path
    }

    private func record() -> [String] {
        let text = (try? String(contentsOfFile: directory + "/record", encoding: .utf8)) ?? ""
        return text.split(separator: "\n").map(String.init)
    }

    private func scripts(_ paths: String...) -> ActionScripts { ActionScripts(paths, images: images, log: Log(level: .silent)) }

    @Test("see the hook point, the image directory and the root's pid") func environment() throws {
        let path = try script("show", "echo \"$CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID $# $(readlink $CRTOOLS_IMAGE_DIR)\" >> \(directory)/record")
        try scripts(path).run(.preRestore)
        try scripts(path).run(.postRestore, root: 4711)
        #expect(record() == ["pre-restore  0 \(directory)", "post-restore 4711 0 \(directory)"])
    }

    @Test("our own environment does not leak an older root's pid") func staleEnvironment() throws {
        let path = try script("path", "echo \"$PATH\" >> \(directory)/record")
        try scripts(path).run(.preDump)
        #expect(record() == [ProcessInfo.processInfo.environment["PATH"] ?? ""])
    }

    @Test("the one given last runs first, and all run even when one fails") func order() throws {
        let good = try script("good", "echo good >> \(directory)/record")
        let bad = try script("bad", "echo bad >> \(directory)/record; exit 5")
        #expect(throws: ActionScriptError(script: bad, point: .postDump, reason: "exit status 5", exitStatus: 5)) {
            try scripts(good, bad).run(.postDump)
        }
        #expect(record() == ["bad", "good"])
    }

    @Test("death by a signal and a missing file are failures too") func otherFailures() throws {
        let killed = try script("killed", "kill -9 $$")
        #expect(throws: ActionScriptError(script: killed, point: .preDump, reason: "killed by signal 9", exitStatus: 255)) {
            try scripts(killed).run(.preDump)
        }
        do throws(ActionScriptError) {
            try scripts(directory + "/none").run(.preDump)
            Issue.record("a missing script passed")
        } catch { #expect(error.description.contains("(ENOENT)"), "\(error)") }
        #expect(throws: ActionScriptError.self) { try scripts("true with-an-argument").run(.preDump) }
    }

    @Test("a name without a slash is looked for in PATH") func path() throws { try scripts("true").run(.preDump) }

    @Test("where nothing can be taken back, failures don't end a restore", arguments: HookPoint.allCases) func fatality(point: HookPoint) throws {
        let harmless: Set<HookPoint> = [.preResume, .postResume, .networkUnlock, .statusReady]
        if harmless.contains(point) {
            try scripts("false").run(point)
        } else {
            #expect(throws: ActionScriptError.self) { try scripts("false").run(point) }
        }
    }
}
