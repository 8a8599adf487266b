package import ImageMessages
package import Kinds

/// What a command did, for `--json` (one object on one line) and `--display-stats` (CRIU's words).
package enum ResultReport {
    /// What went wrong, in parts a program can use.
    package struct Failure: Equatable, Sendable {
        package var message: String
        /// The thing it went wrong with: "task 4711", "image core-4711.img".
        package var object: String?
        package var cause: String?
        package var remedy: String?
        package var errno: Int32?
        package init(message: String, object: String? = nil, cause: String? = nil, remedy: String? = nil, errno: Int32? = nil) {
            (self.message, self.object, self.cause, self.remedy, self.errno) = (message, object, cause, remedy, errno)
        }
    }

    package static func dump(
        _ statistics: DumpStatsEntry, root: Int32, images: String, processes: Int, threads: Int, bytes: UInt64, totalMicroseconds: UInt64,
        command: String = "dump"
    ) -> JSON {
        success(command, root, images, processes, threads, [
            .init("bytes", .number(bytes)),
            .init("times_us", .object([
                .init("total", .number(totalMicroseconds)), .init("freezing", .number(statistics.freezingTime)),
                .init("frozen", .number(statistics.frozenTime)), .init("memdump", .number(statistics.memdumpTime)),
                .init("memwrite", .number(statistics.memwriteTime)),
            ])),
            .init("pages", .object([
                .init("scanned", .number(statistics.pagesScanned)), .init("skipped_parent", .number(statistics.pagesSkippedParent)),
                .init("written", .number(statistics.pagesWritten)), .init("shared_scanned", .number(statistics.shpagesScanned)),
                .init("shared_written", .number(statistics.shpagesWritten)),
            ])),
        ])
    }

    package static func restore(
        _ statistics: RestoreStatsEntry, root: Int32, images: String, processes: Int, threads: Int, totalMicroseconds: UInt64
    ) -> JSON {
        success("restore", root, images, processes, threads, [
            .init("times_us", .object([
                .init("total", .number(totalMicroseconds)), .init("forking", .number(statistics.forkingTime)),
                .init("restore", .number(statistics.restoreTime)),
            ])),
            .init("pages", .object([
                .init("restored", .number(statistics.pagesRestored)), .init("compared", .number(statistics.pagesCompared)),
                .init("skipped_cow", .number(statistics.pagesSkippedCow)),
            ])),
        ])
    }

    private static func success(
        _ command: String, _ root: Int32, _ images: String, _ processes: Int, _ threads: Int, _ more: [JSON.Member]
    ) -> JSON {
        .object([
            .init("command", .string(command)), .init("ok", .bool(true)), .init("root", .number(root)), .init("images", .string(images)),
            .init("processes", .number(processes)), .init("threads", .number(threads)),
        ] + more)
    }

    package static func success(_ command: String, images: String) -> JSON {
        .object([.init("command", .string(command)), .init("ok", .bool(true)), .init("images", .string(images))])
    }

    /// `cpuinfo check`: what CRIU's rules refuse, and what they leave out.
    package static func processor(_ comparison: ProcessorComparison) -> JSON {
        func list(_ findings: [ProcessorComparison.Finding]) -> JSON {
            .array(findings.map { finding in
                .object([
                    .init("rule", .string(finding.rule.rawValue)), .init("text", .string(finding.text)),
                    .init("features", .array(finding.features.map { .string("\($0)") })),
                ])
            })
        }
        return .object([
            .init("command", .string("cpuinfo check")), .init("ok", .bool(comparison.refusals.isEmpty)),
            .init("refusals", list(comparison.refusals)), .init("warnings", list(comparison.warnings)),
        ])
    }

    package static func failure(_ failure: Failure, command: String?) -> JSON {
        let text = { (value: String?) in value.map(JSON.string) ?? .null }
        return .object([
            .init("command", text(command)), .init("ok", .bool(false)),
            .init("error", .object([
                .init("message", .string(failure.message)), .init("object", text(failure.object)), .init("cause", text(failure.cause)),
                .init("remedy", text(failure.remedy)), .init("errno", failure.errno.map { .number($0) } ?? .null),
            ])),
        ])
    }

    package static func displayed(_ statistics: DumpStatsEntry) -> String {
        """
        Displaying dump stats:
        Freezing time: \(statistics.freezingTime) us
        Frozen time: \(statistics.frozenTime) us
        Memory dump time: \(statistics.memdumpTime) us
        Memory write time: \(statistics.memwriteTime) us
        IRMAP resolve time: \(statistics.irmapResolve) us
        Memory pages scanned: \(counted(statistics.pagesScanned))
        Memory pages skipped from parent: \(counted(statistics.pagesSkippedParent))
        Memory pages written: \(counted(statistics.pagesWritten))
        Lazy memory pages: \(counted(statistics.pagesLazy))

        """
    }

    package static func displayed(_ statistics: RestoreStatsEntry) -> String {
        """
        Displaying restore stats:
        Pages compared: \(counted(statistics.pagesCompared))
        Pages skipped COW: \(counted(statistics.pagesSkippedCow))
        Pages restored: \(counted(statistics.pagesRestored))
        Restore time: \(statistics.restoreTime) us
        Forking time: \(statistics.forkingTime) us

        """
    }

    /// "1834 (0x72a)"
    private static func counted(_ count: UInt64) -> String { "\(count) (0x\(String(count, radix: 16)))" }
}
