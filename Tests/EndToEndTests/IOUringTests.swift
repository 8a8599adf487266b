import Foundation
import Testing

/// What of io_uring can't be kept is refused before anything is done to the program.
@Suite("io_uring refused", .serialized) final class IOUringRefusalTests {
    private let directory = NSTemporaryDirectory() + "stasis-rings-\(UUID().uuidString.prefix(8))"
    init() throws { try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    struct Case: Sendable, CustomTestStringConvertible {
        /// Python that makes it; `ring(flags)` makes a ring, `register(ring, operation, bytes, count)` is io_uring_register(2).
        let python: String
        let words: String
        var testDescription: String { words }
    }
    static let cases: [Case] = [
        Case(python: "ring(1 << 0)", words: "IORING_SETUP_IOPOLL"),
        Case(python: "ring(1 << 1)", words: "IORING_SETUP_SQPOLL"),
        Case(python: "ring(1 << 6)", words: "IORING_SETUP_R_DISABLED"),
        Case(python: "t = threading.Thread(target=lambda: (ring(1 << 12), made.set(), time.sleep(1000)), daemon=True); made = threading.Event(); t.start(); made.wait()", words: "IORING_SETUP_SINGLE_ISSUER"),
        Case(python: "e = eventfd(); register(ring(), 4, struct.pack('i', e), 1)", words: "an eventfd is registered"),
        Case(python: "f = os.open('/etc/passwd', 0); register(ring(), 2, struct.pack('i', f), 1); os.close(f)", words: "/etc/passwd is registered with it in slot 0"),
        Case(python: "register(ring(), 20, struct.pack('IIQ', 0xffffffff, 0, ring()), 1)", words: "IORING_REGISTER_RING_FDS"),
        Case(python: "m = mmap.mmap(-1, 4096); register(ring(), 22, struct.pack('QIHHQQQ', ctypes.addressof(ctypes.c_char.from_buffer(m)), 8, 7, 0, 0, 0, 0), 1)", words: "in group 7"),
        Case(python: "r = ring(1 << 6); register(r, 11, struct.pack('HBB12x', 1, 13, 0), 1); register(r, 12, None, 0)", words: "IORING_REGISTER_RESTRICTIONS"),
    ]

    @Test("a ring that can't be kept is refused with the reason, and the program runs on", arguments: cases)
    func refused(_ one: Case) throws {
        try """
            import ctypes, mmap, os, struct, threading, time
            L = ctypes.CDLL(None, use_errno=True)
            def checked(answer):
                if answer < 0: raise OSError(ctypes.get_errno(), 'io_uring')
                return answer
            def ring(flags=0): return checked(L.syscall(425, 8, ctypes.create_string_buffer(struct.pack('III', 0, 0, flags), 120)))
            def register(ring, operation, argument, count): checked(L.syscall(427, ring, operation, ctypes.create_string_buffer(argument, len(argument)) if argument else None, count))
            def eventfd(): return checked(L.eventfd(0, 0))
            \(one.python)
            open('ready', 'w')
            time.sleep(1000)

            """.write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
        let script = """
            cd \(directory); for n in $(ls /proc/$$/fd); do [ $n -gt 2 -a $n -ne 255 ] && eval "exec $n>&-"; done
            mkdir d; setsid python3 program.py < /dev/null > out 2>&1 & P=$!
            for i in $(seq 500); do [ -e ready -o -s out ] && break; sleep 0.02; done; cat out
            \(Binaries.stasis) dump -t $P -D d -v0 --json < /dev/null; echo "exit $?"; kill -0 $P && echo alive
            """
        let result = try Command("/usr/bin/unshare", ["-m", "-pf", "--mount-proc", "--kill-child", "/bin/bash", "-c", script], in: directory).run(within: 60)
        #expect(result.output.contains(one.words) && result.output.hasSuffix("exit 1\nalive\n"), "\(result)")
    }
}
