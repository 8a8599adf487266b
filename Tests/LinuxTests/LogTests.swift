import Foundation
import Glibc
import Testing

@testable import Linux

@Suite("log") struct LogTests {
    /// What `body` writes through a log of that level.
    private func written(level: Log.Level, _ body: (Log) -> Void) -> [String] {
        let pipe = Pipe()
        body(Log(level: level, to: dup(pipe.fileHandleForWriting.fileDescriptor)))  // the log closes its copy
        try? pipe.fileHandleForWriting.close()
        let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        return text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init)
    }

    private func writeOneOfEach(_ log: Log) {
        log.error("first")
        log.warn("second")
        log.info("third")
        log.debug("fourth")
    }

    @Test("writes up to its level", arguments: zip([0, 1, 2, 3, 4, 9, -1], [0, 1, 2, 3, 4, 4, 0]))
    func levels(verbosity: Int, lines: Int) {
        #expect(written(level: Log.Level(verbosity: verbosity), writeOneOfEach).count == lines)
    }

    @Test("errors and warnings begin as CRIU's do, without times below level 3")
    func prefixes() {
        let lines = written(level: .warning, writeOneOfEach)
        #expect(lines[0].wholeMatch(of: /Error \(LinuxTests\/LogTests\.swift:\d+\): first/) != nil, "\(lines[0])")
        #expect(lines[1].wholeMatch(of: /Warn  \(LinuxTests\/LogTests\.swift:\d+\): second/) != nil, "\(lines[1])")
    }

    @Test("lines carry the time from level 3 on")
    func times() {
        let lines = written(level: .debug, writeOneOfEach)
        #expect(lines[0].wholeMatch(of: /\(00\.\d{6}\) Error \(.*\): first/) != nil, "\(lines[0])")
        #expect(lines[2].wholeMatch(of: /\(00\.\d{6}\) third/) != nil, "\(lines[2])")
    }

    @Test("narrows its subject, and keeps the first error of all its copies")
    func subjects() {
        let lines = written(level: .warning) { log in
            let task = log.about("task 7")
            #expect(log.firstError == nil)
            task.about("fd 3").error("gone")
            log.error("later")
            #expect(log.firstError == "task 7: fd 3: gone")
        }
        #expect(lines[0].hasSuffix("): task 7: fd 3: gone"))
        #expect(lines[1].hasSuffix("): later"))
    }

    @Test("text below the level is never built")
    func laziness() {
        var built = false
        _ = written(level: .info) { log in
            log.debug({ built = true; return "x" }())
        }
        #expect(!built)
    }
}
