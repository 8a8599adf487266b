import Linux
import Testing

@Suite("address remaps") struct InetAddressRemapTests {
    @Test("replace what they name, and nothing else", arguments: [
        ("10.0.0.1=10.0.0.2", "10.0.0.1", 80, "10.0.0.2", 80), ("10.0.0.1=10.0.0.2", "10.0.0.3", 80, "10.0.0.3", 80),
        ("10.0.0.1:80=10.0.0.2:8080", "10.0.0.1", 80, "10.0.0.2", 8080), ("10.0.0.1:80=10.0.0.2:8080", "10.0.0.1", 81, "10.0.0.1", 81),
        (":80=:8080", "0.0.0.0", 80, "0.0.0.0", 8080), (":80=:8080", "::", 80, "::", 8080),
        ("[fd00::1]:80=[fd00::2]:81", "fd00::1", 80, "fd00::2", 81), ("fd00::1=fd00::2", "fd00::1", 9, "fd00::2", 9),
        ("10.0.0.1=10.0.0.2", "::ffff:10.0.0.1", 80, "::ffff:10.0.0.2", 80),
    ] as [(String, String, Int, String, Int)])
    func apply(remap: String, address: String, port: Int, newAddress: String, newPort: Int) throws {
        let remap = try #require(InetAddressRemap(remap))
        let result = remap.applied(to: try #require(InetAddress(text: address, port: UInt16(port))))
        #expect(result.host == newAddress && Int(result.port) == newPort)
    }
    @Test("that make no sense are refused", arguments: ["", "=", "10.0.0.1", "10.0.0.1=", "10.0.0.1=fd00::1", "10.0.0.1:80=10.0.0.2", ":0=:1", "10.0.0.1=10.0.0.2=10.0.0.3", "[10.0.0.1]:1=:1", "a=b"])
    func refused(text: String) { #expect(InetAddressRemap(text) == nil) }
}
