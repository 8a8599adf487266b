import Testing

@testable import Kinds

@Suite("packet filters") struct PacketFiltersTests {
    @Test("CRIU's lock is left out of rules that it saved") func withoutLock() {
        let rules = """
            table ip filter {
            \tchain INPUT {
            \t\ttype filter hook input priority filter; policy accept;
            \t\tcounter packets 0 bytes 0 jump CRIU
            \t\tct state established counter packets 7 bytes 382 accept
            \t}

            \tchain CRIU {
            \t\tmeta mark 0x0000c114 counter packets 0 bytes 0 accept
            \t\tcounter packets 0 bytes 0 drop
            \t}
            }
            table inet CRIU-1234 {
            \tchain input {
            \t\tmeta mark 0x0000c114 accept
            \t}
            }
            table inet mine {
            }

            """
        let wanted = """
            table ip filter {
            \tchain INPUT {
            \t\ttype filter hook input priority filter; policy accept;
            \t\tct state established counter packets 7 bytes 382 accept
            \t}

            }
            table inet mine {
            }

            """
        #expect(PacketFilters.withoutLock(rules) == wanted)
        let old = "*filter\n:INPUT ACCEPT [0:0]\n:CRIU - [0:0]\n-A INPUT -j CRIU\n-A INPUT -p tcp -j ACCEPT\n-A CRIU -m mark --mark 0xc114 -j ACCEPT\n-A CRIU -j DROP\nCOMMIT\n"
        #expect(PacketFilters.withoutLock(old) == "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n")
    }
}
