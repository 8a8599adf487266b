import Linux
import Testing

@Suite("the table of our descriptors") struct DescriptorLimitTests {
    /// proc_pid_status(5).
    private func size() throws -> Int { Int(try #require(try Proc.status(.current)["FDSize"]))! }

    @Test("is grown at once, and no descriptor is left behind") func room() throws {
        DescriptorLimit.raise()
        let wanted = try size() * 2
        DescriptorLimit.makeRoom(for: wanted)
        #expect(try size() > wanted)
        #expect(try !Files.names(in: "/proc/self/fd").contains("\(wanted)"))
    }
}
