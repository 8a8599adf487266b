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
    }
}
