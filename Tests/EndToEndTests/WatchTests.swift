import Foundation
import Testing

/// Watched files whose handles lead nowhere: the kernel does not open those of overlayfs.
@Suite("watches without a usable handle", .serialized) final class WatchTests {
    private let directory = NSTemporaryDirectory() + "stasis-watches-\(UUID().uuidString.prefix(8))"
    init() throws { try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    @Test("are refused with the option that helps; with --irmap-scan-path they go on watching", arguments: ["", "--force-irmap"])
    func overlay(_ also: String) throws {
        try """
            import ctypes, os, select, time
            L = ctypes.CDLL(None, use_errno=True)
            def checked(answer):
                if answer < 0: raise OSError(ctypes.get_errno(), 'watch')
                return answer
            inotify, fanotify = checked(L.inotify_init1(0)), checked(L.fanotify_init(0, 0))
            for name in b'deep/below/lower', b'upper': checked(L.inotify_add_watch(inotify, b'merged/' + name, 0x20))  # IN_OPEN
            checked(L.fanotify_mark(fanotify, 1, ctypes.c_uint64(0x20), -100, b'merged/upper'))  # FAN_MARK_ADD, FAN_OPEN
            open('ready', 'w')
            while not os.path.exists('go'): time.sleep(0.01)
            for name in 'merged/deep/below/lower', 'merged/upper': open(name).close()
            numbers = [int.from_bytes(os.read(inotify, 16)[:4], 'little') for _ in range(2)]
            open('result.new', 'w').write(f'{numbers} {len(select.select([fanotify], [], [], 10)[0])}')
            os.rename('result.new', 'result')

            """.write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
        let script = """
            cd \(directory); for n in $(ls /proc/$$/fd); do [ $n -gt 2 -a $n -ne 255 ] && eval "exec $n>&-"; done
            mkdir layers merged d; mount -t tmpfs none layers; mkdir -p layers/a/deep/below layers/b layers/work; echo x > layers/a/deep/below/lower
            mount -t overlay none -o lowerdir=layers/a,upperdir=layers/b,workdir=layers/work merged; echo y > merged/upper
            setsid python3 program.py < /dev/null > out 2>&1 & P=$!
            for i in $(seq 500); do [ -e ready -o -s out ] && break; sleep 0.02; done; cat out
            \(Binaries.stasis) dump -t $P -D d -v1 < /dev/null 2>&1; echo "exit $?"
            \(Binaries.stasis) dump -t $P -D d -v0 --irmap-scan-path $PWD/merged \(also) < /dev/null; echo "exit $?"
            wait $P 2> /dev/null
            \(Binaries.stasis) restore -D d -d -v0 < /dev/null; echo "exit $?"
            touch go; for i in $(seq 500); do [ -e result -o -s out ] && break; sleep 0.02; done; cat out result
            """
        let result = try Command("/usr/bin/unshare", ["-m", "-pf", "--mount-proc", "--kill-child", "/bin/bash", "-c", script], in: directory).run(within: 60)
        #expect(result.output.contains("name a directory that it is in with --irmap-scan-path") && result.output.contains("exit 1\n") && result.output.hasSuffix("exit 0\nexit 0\n[1, 2] 1"), "\(result)")
    }
}
