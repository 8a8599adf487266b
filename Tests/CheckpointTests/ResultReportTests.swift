import Foundation
import ImageMessages
import Testing

@testable import Checkpoint

@Suite("results") struct ResultReportTests {
    private func parsed(_ json: JSON) throws -> [String: Any] {
        let value = try JSONSerialization.jsonObject(with: Data(json.text.utf8))
        return try #require(value as? [String: Any])
    }

    @Test("strings come back from a JSON parser", arguments: ["", "\"\\/", "a\nb\tc\r", "\u{1}\u{1f}\u{7f}", "größe 💾", "\u{2028}"])
    func strings(text: String) throws {
        #expect(try parsed(.object([.init(text, .string(text))])) as? [String: String] == [text: text])
    }

    @Test("numbers, lists and truth") func values() throws {
        let object = try parsed(.object([
            .init("n", .number(UInt64.max)), .init("m", .number(-1)), .init("a", .array([.null, .bool(true)])), .init("e", .object([])),
        ]))
        #expect(object["n"] as? Int64 == .max && object["m"] as? Int == -1)
        let list = try #require(object["a"] as? [Any])
        #expect(list.count == 2 && list[0] is NSNull && list[1] as? Bool == true)
    }

    private let statistics: DumpStatsEntry = {
        var statistics = DumpStatsEntry()
        (statistics.freezingTime, statistics.frozenTime, statistics.memdumpTime, statistics.memwriteTime) = (2895, 484048, 184817, 65937)
        (statistics.pagesScanned, statistics.pagesWritten) = (1834, 1733)
        return statistics
    }()

    @Test("a dump") func dump() throws {
        let object = try parsed(ResultReport.dump(
            statistics, root: 7, images: "/x", processes: 2, threads: 5, bytes: 99, totalMicroseconds: 500_000))
        #expect(object["ok"] as? Bool == true && object["root"] as? Int == 7 && object["threads"] as? Int == 5 && object["bytes"] as? Int == 99)
        #expect((object["times_us"] as? [String: Int])?["frozen"] == 484048)
        #expect((object["pages"] as? [String: Int])?["written"] == 1733)
    }

    @Test("a failure names object, cause and remedy") func failure() throws {
        let failure = ResultReport.Failure(message: "cannot seize task 7: \"x\"", object: "task 7", cause: "x", remedy: "run as root", errno: 1)
        let object = try parsed(ResultReport.failure(failure, command: "dump"))
        let error = try #require(object["error"] as? [String: Any])
        #expect(object["ok"] as? Bool == false && error["object"] as? String == "task 7" && error["remedy"] as? String == "run as root")
        #expect(error["errno"] as? Int == 1 && error["message"] as? String == "cannot seize task 7: \"x\"")
    }

    /// What CRIU 4.2 printed for the dump with these numbers.
    @Test("--display-stats speaks as CRIU does") func displayed() {
        #expect(ResultReport.displayed(statistics) == """
            Displaying dump stats:
            Freezing time: 2895 us
            Frozen time: 484048 us
            Memory dump time: 184817 us
            Memory write time: 65937 us
            IRMAP resolve time: 0 us
            Memory pages scanned: 1834 (0x72a)
            Memory pages skipped from parent: 0 (0x0)
            Memory pages written: 1733 (0x6c5)
            Lazy memory pages: 0 (0x0)

            """)
        var restored = RestoreStatsEntry()
        (restored.pagesRestored, restored.restoreTime, restored.forkingTime) = (1733, 96642, 3)
        #expect(ResultReport.displayed(restored) == """
            Displaying restore stats:
            Pages compared: 0 (0x0)
            Pages skipped COW: 0 (0x0)
            Pages restored: 1733 (0x6c5)
            Restore time: 96642 us
            Forking time: 3 us

            """)
    }
}
