import Foundation
import Glibc
import Linux
import Testing

@Suite("proc readers") struct ProcTests {
    @Test("a command with spaces and parentheses does not shift the fields of stat")
    func commandWithParentheses() throws {
        let tail = (4...52).map { "\($0)" }.joined(separator: " ")
        let stat = try #require(TaskStat(parsing: Array("7 (a) b (c) S \(tail)\n".utf8)))
        #expect(stat.comm == "a) b (c" && stat.state == "S" && stat.parent == 4 && stat.startCode == 26 && stat.exitCode == 52)
    }
    @Test("smaps gives flags and page size to the mapping above them")
    func smaps() throws {
        let text = """
        7f00-7f10 rw-p 00001000 fe:00 123    /a b\\012c
        KernelPageSize:        4 kB
        VmFlags: rd wr mr mw me gd ac
        8000-9000 r-xs 00000000 00:00 0
        KernelPageSize:     2048 kB
        Pss:                   8 kB
        Private_Dirty:         7 kB
        ProtectionKey:         12
        VmFlags: rd ex ht
        """
        let found = Mapping.parse(Array(text.utf8))
        #expect(found.count == 2)
        #expect(found[0].name == "/a b\nc" && found[0].flags.contains(.growsDown) && found[0].inode == 123 && found[0].major == 0xfe)
        #expect(found.map(\.protectionKey) == [0, 12])
        #expect(found[1].shared && found[1].executable && !found[1].writable && found[1].kernelPageSize == 2 << 20 && found[1].flags.contains(.hugetlb))
    }
    @Test("a process's maps are read whole and in order") func wholeMaps() throws {
        let sleeper = Process()  // nobody maps in it while we read
        sleeper.executableURL = URL(fileURLWithPath: "/bin/sleep")
        sleeper.arguments = ["60"]
        try sleeper.run()
        defer { kill(sleeper.processIdentifier, SIGKILL); sleeper.waitUntilExit() }
        usleep(100_000)
        let maps = try Mapping.all(of: ThreadID(sleeper.processIdentifier), withFlags: true)
        #expect(maps.contains { $0.name == "[stack]" } && maps.contains { $0.name == "[vdso]" })
        #expect(zip(maps, maps.dropFirst()).allSatisfy { $0.end <= $1.start })
    }
    @Test("limits come in the order of their numbers") func limits() throws {
        let limits = try Proc.limits(of: .current)
        var open = rlimit()
        #expect(unsafe getrlimit(__rlimit_resource_t(7), &open) == 0)
        #expect(limits.count == 16 && limits[7].soft == UInt64(open.rlim_cur))
    }
}
