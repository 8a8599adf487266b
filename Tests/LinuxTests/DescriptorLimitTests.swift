import Linux
import Testing

@Suite("the table of our descriptors") struct DescriptorLimitTests {
    /// In a process of its own: the table of this one is as large as other tests have made it, up to its limit.
    @Test("is grown at once, and no descriptor is left behind") func room() async {
        await #expect(processExitsWith: .success) {
            DescriptorLimit.raise()
            let wanted = try size() * 2
            DescriptorLimit.makeRoom(for: wanted)
            #expect(try size() > wanted)
            #expect(try !Files.names(in: "/proc/self/fd").contains("\(wanted)"))
        }
    }
}

/// proc_pid_status(5).
private func size() throws -> Int { try Int(#require(try Proc.status(.current)["FDSize"])) ?? 0 }
