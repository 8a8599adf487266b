import Testing

extension EndToEnd {
    @Suite("TCP between network namespaces") struct TCPCycles {
        /// A hundred by hand: Tests/tcp-cycles.
        @Test("a server is dumped and restored again and again while its client streams: no byte is lost or doubled, no RST seen")
        func cycles() throws {
            let script = #filePath.parentFolder.parentFolder + "/tcp-cycles"
            let result = try Command(script, ["3"], in: "/", environment: ["STASIS_BINARY": Binaries.stasis, "WORKLOAD_BINARY": Binaries.workload]).run(within: 120)
            #expect(result.succeeded, "\(result)")
        }

        @Test("a server that is left stopped is killed, which its client does not hear of, and restored; or runs on")
        func leftStopped() throws {
            let script = #filePath.parentFolder.parentFolder + "/tcp-cycles"
            let result = try Command(script, ["3"], in: "/", environment: ["STASIS_BINARY": Binaries.stasis, "WORKLOAD_BINARY": Binaries.workload, "LEAVE_STOPPED": "yes"]).run(within: 120)
            #expect(result.succeeded, "\(result)")
        }

        @Test("connections in LAST-ACK, CLOSING and SYN-RECV are dumped, restored, and come to their end")
        func corners() throws {
            let script = #filePath.parentFolder.parentFolder + "/tcp-corners"
            let result = try Command(script, [], in: "/", environment: ["STASIS_BINARY": Binaries.stasis, "WORKLOAD_BINARY": Binaries.workload]).run(within: 120)
            #expect(result.succeeded, "\(result)")
        }

        @Test("a server is migrated while its client streams, and its address with it: no byte is lost or doubled, no RST seen")
        func migration() throws {
            let script = #filePath.parentFolder.parentFolder + "/tcp-migration"
            let result = try Command(script, [], in: "/", environment: ["STASIS_BINARY": Binaries.stasis, "WORKLOAD_BINARY": Binaries.workload]).run(within: 60)
            #expect(result.succeeded, "\(result)")
        }
    }
}
