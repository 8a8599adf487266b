import Testing

extension EndToEnd {
    /// dump --direct-io: the images are those of any dump.
    @Suite("images written past the page cache") struct DirectIO {
        @Test("are whole", arguments: ["memory-private", "memory-shared", "memory-files", "cow"]) func restored(workload: String) throws {
            try Run.live(workload, again: "swift test --filter EndToEnd.DirectIO", as: "\(workload)-direct-io") { run in
                try run.preDump(["--direct-io"])
                try run.dumpAndKill(run.onPrevious + ["--direct-io"])
                try run.verify()
                try run.restore()
                try run.checkItself()
            }
        }
    }
}
