import Testing

extension EndToEnd {
    @Suite("network namespaces") struct NetworkNamespaces {
        @Test("a tree is locked with its namespace, put into an existing or an empty one; what can't be made again is refused; a killed dump leaves no lock")
        func script() throws {
            let script = #filePath.parentFolder.parentFolder + "/network-namespaces"
            let result = try Command(script, [], in: "/", environment: ["STASIS_BINARY": Binaries.stasis, "WORKLOAD_BINARY": Binaries.workload]).run(within: 120)
            #expect(result.succeeded, "\(result)")
        }
    }
}
