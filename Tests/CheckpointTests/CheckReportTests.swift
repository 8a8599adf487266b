import ImageMessages
import Kinds
import Linux
import Testing

@testable import Checkpoint

@Suite("what checks say") struct CheckReportTests {
    @Test("a failure has the words of the error") func words() {
        let error = CheckpointError("restore", .file("/a"), "it is gone", remedy: "put it back", option: "--x", errno: Errno(2))
        let verdict = Verdict(error, about: "x")
        #expect("\(error)" == verdict.message + "\n  try: put it back")
        #expect(verdict.grade == .fails && verdict.option == "--x" && verdict.errno == 2)
    }

    @Test("a report passes as long as nothing fails") func passes() {
        var report = CheckReport("restore")
        report.verdicts = [Verdict(ok: "a", "well"), Verdict(warning: "b", "hm")]
        #expect(report.passes && report.summary == "0 fail, 1 warning, 1 ok")
        #expect(report.text(all: false) == "warning b: hm\n0 fail, 1 warning, 1 ok")
        report.verdicts.append(Verdict(CheckpointError("restore", .file("/a"), "it is gone"), about: "a"))
        #expect(!report.passes && report.text(all: true).hasPrefix("fails   cannot restore file /a: it is gone\nwarning b: hm\nok      a: well\n"))
    }

    @Test("memory that can't fit is refused, memory that might is not") func memory() {
        let room = MemoryRoom.Room(total: 1 << 30, available: 1 << 20)
        #expect(throws: Never.self) { try MemoryRoom.check([(1, 1 << 30), (2, 1 << 30)], room) }
        #expect(throws: CheckpointError.self) { try MemoryRoom.check([(1, 1 << 20), (2, 1 << 31)], room) }
    }
}
