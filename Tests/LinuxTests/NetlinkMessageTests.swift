import Linux
import Testing

@Suite("netlink messages") struct NetlinkMessageTests {
    @Test("are read as they were written, attributes too") func roundTrip() {
        let body = little32(7) + NetlinkMessage.attribute(3, text: "lo") + NetlinkMessage.attribute(0x8012, NetlinkMessage.attribute(1, 5))
        let messages = [NetlinkMessage(16, flags: 2, body), NetlinkMessage(20, [1, 2, 3])]
        let read = NetlinkMessage.all(in: messages.flatMap(\.bytes))
        #expect(read == messages)
        let attributes = NetlinkMessage.attributes(body, from: 4)
        #expect(attributes[3] == Array("lo".utf8) + [0])
        #expect(attributes[18].map { NetlinkMessage.attributes($0) } == [1: little32(5)])
    }

    @Test("that are cut short, or lie about their length, are none", arguments: [
        [16, 0, 0], little32(15) + [UInt8](repeating: 0, count: 12), little32(20) + [UInt8](repeating: 0, count: 12), little32(.max) + [UInt8](repeating: 0, count: 28),
    ] as [[UInt8]]) func cutShort(bytes: [UInt8]) { #expect(NetlinkMessage.all(in: bytes) == nil) }
}

@Suite("network namespaces of a thread") struct NetworkStayTests {
    @Test("a stay in a new one ends where it began, and can be left for a while") func stay() throws {
        func here() throws -> UInt64 { try NetworkNamespace.current().status().inode }
        let before = try here(), stay = try NetworkStay()
        let there = try here()
        #expect(there != before)
        #expect(try stay.outside { try here() } == before)
        #expect(try here() == there)
        #expect(try NetlinkConnection(0).list(RouteNetlink.getLink, [UInt8](repeating: 0, count: 16)).count >= 1)
        stay.leave()
        #expect(try here() == before)
        #expect(throws: SyscallError.self) { try NetworkNamespace.open("/proc/self/ns/mnt") }
    }
}

