import ImageMessages
import Linux
import Testing

@testable import Images

@Suite("images of a network namespace") struct NetworkImagesTests {
    private let golden = Golden("namespaces/images", "namespaces/json")

    @Test("of CRIU are read: interfaces, addresses, rules") func read() throws {
        let images = try NetworkImages(10, golden.directory)
        #expect(images.devices.map(\.name).contains("lo"))
        #expect(!images.addresses.isEmpty && images.addresses.allSatisfy { $0.type == RouteNetlink.newAddress })
        #expect(!images.rules.isEmpty && images.rules.allSatisfy { $0.type == RouteNetlink.newRule })
        #expect(images.entry.allConf4.count == 30 && images.entry.sysctls.isEmpty)
    }

    @Test("what is no message, or of another kind, is refused with the image's name", arguments: [
        ("ifaddr-10.img", [0x22, 0x12, 0x36, 0x47, 16, 0, 0, 0, 24, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]),  // a route
        ("ifaddr-10.img", [0x22, 0x12, 0x36, 0x47, 99, 0, 0, 0, 20, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]),  // longer than the file
        ("route-10.img", [0x22, 0x12, 0x36, 0x47]),  // the magic of addresses
        ("rule-10.img", [0x86, 0x69, 0x70, 0x71, 16, 0]), ("netns-ct-10.img", [1, 2, 3, 4, 5]),
    ] as [(String, [UInt8])]) func lies(name: String, bytes: [UInt8]) throws {
        let scratch = try Scratch(golden)
        try scratch.write(name, bytes)
        let error = #expect(throws: ImageError.self) { try NetworkImages(10, scratch.directory) }
        #expect(error?.file == name)
    }

    @Test("names that lead elsewhere are found", arguments: ["../../kernel/hostname=x", "ipv4//x=1", "noValue", "=1"]) func names(sysctl: String) throws {
        let scratch = try Scratch(golden)
        var entry = try scratch.directory.single(.netNamespace, 10)
        entry.sysctls = [sysctl]
        try scratch.directory.write(.netNamespace, 10, [entry])
        let problems = try ImageSet(scratch.directory).problems()
        #expect(problems.contains { $0.file == "netns-10.img" && $0.field == "sysctls[0]" }, "\(problems)")
    }
}
