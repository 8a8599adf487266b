import Foundation
import Testing

extension EndToEnd {
    /// What a user may do who has CAP_CHECKPOINT_RESTORE and nothing else (criu(8), NON-ROOT).
    @Suite("--unprivileged", .serialized) struct Unprivileged {
        @Test("one capability is enough for programs without any", arguments: ["threads", "pipes", "tree", "memory-private", "files"])
        func oneCapability(workload: String) throws {
            let run = try Run(workload)
            run.workloadStarter = ["/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all"]
            run.stasisStarter = ["/usr/bin/setpriv", "--bounding-set=-all,+checkpoint_restore", "--inh-caps=-all"]
            (run.dumpOptions, run.restoreOptions) = (["--unprivileged"], ["--unprivileged"])
            run.reporting(again: "swift test --filter Unprivileged", as: "\(workload)-unprivileged") { run in
                try run.start(["--detached", workload])
                try run.awaitReady()
                try run.dumpAndKill()
                try run.restore()
                try run.checkItself()
            }
        }

        @Test("a program that is set-user-id is refused: it would give everybody's programs to everybody")
        func setUserID() throws {
            let directory = NSTemporaryDirectory() + "stasis-suid-\(UUID().uuidString.prefix(8))", copy = directory + "/stasis"
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o755])
            defer { try? FileManager.default.removeItem(atPath: directory) }
            try FileManager.default.copyItem(atPath: Binaries.stasis, toPath: copy)
            try FileManager.default.setAttributes([.posixPermissions: 0o4755], ofItemAtPath: copy)
            for command in [["dump", "-t", "1"], ["restore"], ["check"]] {
                let result = try Command("/usr/bin/setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", copy] + command, in: "/").run()
                #expect(!result.succeeded && result.output.contains("set-user-id"), "\(command): \(result)")
            }
        }
    }
}
