import Foundation
import Glibc
import Testing

/// AMD GPUs, with a stand-in for the kernel's drivers (Tests/Plugins/simulated_kfd.c).
@Suite("AMD GPUs", .serialized) final class AMDGPUTests {
    private let directory = NSTemporaryDirectory() + "stasis-amdgpu-\(UUID().uuidString.prefix(8))"

    init() throws { try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    private static let plugins = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().path + "/Plugins"

    /// Has /dev/kfd, a second GPU's render node, a mapping of the first one's memory, and a child that inherited all this; an elder child uses the GPUs for itself.
    private static let program = """
        import ctypes, os, time
        if os.fork() == 0:
            os.open('/dev/kfd', os.O_RDWR); open('child', 'w').write(str(os.getpid())); time.sleep(1000)
        while not os.path.exists('child') or not open('child').read(): time.sleep(0.01)
        k = os.open('/dev/kfd', os.O_RDWR); os.dup(k)
        r = os.open('/dev/dri/renderD128', os.O_RDWR)
        L = ctypes.CDLL(None); L.mmap.restype = ctypes.c_void_p; L.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        L.mmap(None, 8192, 3, 2, r, 0x100003000); os.close(r)
        os.open('/dev/dri/renderD129', os.O_RDWR)
        if os.fork() == 0: time.sleep(1000)
        open('ready', 'w'); time.sleep(1000)

        """

    /// Runs lines of bash(1) on a machine with two GPUs: $S is stasis, $P the program; `simulate` runs a command on the drivers, whose state is in the file `state`.
    private func shell(_ lines: String, program: String = AMDGPUTests.program, within seconds: Double = 60) throws -> Command.Result {
        try program.write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
        let head = """
            set -u; S=\(Binaries.stasis); T=\(Self.plugins); cd \(directory)
            for n in $(ls /proc/$$/fd); do [ $n -gt 2 -a $n -ne 255 ] && eval "exec $n>&-"; done
            cc -Wall -I$T $T/simulated_kfd.c -o simulated_kfd || exit 1
            . $T/gpu-machine; rm -f ready child; node 0; node 1 4369 128; node 2 8738 129 simd_count=128
            setsid python3 program.py < /dev/null > out 2>&1 & P=$!; disown $P
            for i in $(seq 500); do [ -e ready ] && break; sleep 0.02; done; cat out
            simulate() { ./simulated_kfd state "$@" < /dev/null; }
            gone() { for i in $(seq 300); do [ -e /proc/$P ] || break; sleep 0.01; done; }
            export SIMULATED_KFD_LOG=$PWD/log; : > log; rm -rf d; mkdir d
            cat > state << END
            gpu 4369 128
            gpu 8738 129
            process $P running
            device 4369 4369
            device 8738 8738
            buffer 4369 7f0000000000 8192 100000000 80000001 1 00112233445566
            buffer 4369 7f0000100000 5001216 100002000 80000002 2 c0ffee
            buffer 8738 7f0000200000 8192 c000888000000000 8 3 00
            buffer 8738 7f0000300000 65536 100000000 80000004 4 00
            object queue7
            object event1
            END
            C=$(cat child 2> /dev/null) && cat >> state << END
            process $C running
            device 4369 4369
            device 8738 8738
            buffer 4369 7f0000000000 4096 100001000 80000001 1 bb
            END
            named() { sed 's/ '$P' / P /; s/ '$C' / C /' state; }
            named > before

            """
        try (head + lines + "\n").write(toFile: directory + "/script", atomically: false, encoding: .utf8)
        return try Command("/usr/bin/unshare", ["-m", "-i", "-pf", "--mount-proc", "--kill-child", "/bin/bash", directory + "/script"], in: directory).run(within: seconds)
    }

    @Test("on another machine everything is there again: buffers with content at the ids that the process knows, queues, mappings, render nodes") func moved() throws {
        let result = try shell("""
            simulate $S dump -t $P -D d -R || echo DUMP-FAILED
            named | cmp - before && echo "the tree ran on as it was"; rm -r d; mkdir d; : > log
            simulate $S dump -t $P -D d || echo DUMP-FAILED
            gone; grep -c fault log; ls d | grep amdgpu | sed 's/\\(kfd\\|pages\\|D\\)-[0-9]*/\\1-N/' | sort | xargs; $S verify d > /dev/null || echo VERIFY-FAILED
            no_nodes; node 0; node 3 17476 130 simd_count=128; node 4 13107 128
            printf 'gpu 17476 130\\ngpu 13107 128\\n' > state; : > log
            cat > inside << END
            $S restore -d -D d || echo RESTORE-FAILED
            grep -o '[0-9a-f]* [^ ]* [0-9]* */dev/dri.*' /proc/$P/maps | sed 's/ [^/]*/ /'; ls -l /proc/$P/fd | grep -o '/dev/[dk][fr].*' | xargs; ls -l /proc/$P/fd | grep -c dmabuf
            END
            simulate bash inside; grep -c fault log; named
            """)
        #expect(result.output == """
            the tree ran on as it was
            0
            amdgpu-kfd-N.img amdgpu-kfd-N.img amdgpu-pages-N-1111.img amdgpu-pages-N-1111.img amdgpu-pages-N-2222.img amdgpu-pages-N-2222.img amdgpu-renderD-N.img
            200004000 /dev/dri/renderD128
            /dev/kfd /dev/kfd /dev/dri/renderD130
            0
            0
            gpu 17476 130
            gpu 13107 128
            process C running
            device 4369 13107
            device 8738 17476
            buffer 4369 7f0000000000 4096 200000000 80000001 1 bb
            process P running
            device 4369 13107
            device 8738 17476
            buffer 4369 7f0000000000 8192 200001000 80000001 1 00112233445566
            buffer 4369 7f0000100000 5001216 200003000 80000002 2 c0ffee
            buffer 8738 7f0000200000 8192 d111000000000000 8 3 00
            buffer 8738 7f0000300000 65536 0 80000004 4 00
            object queue7
            object event1

            """, "\(result)")
    }

    @Test("a call that fails costs a dump, never the tree: its queues run on") func dumpFails() throws {
        let calls = ["PROCESS_INFO", "CHECKPOINT", "PRIME_FD_TO_HANDLE", "CS"]
        let result = try shell("""
            for call in \(calls.joined(separator: " ")); do
                SIMULATED_KFD_FAIL=$call simulate $S dump -t $P -D d -v0 --json | grep -o 'plugin amdgpu_plugin[^"]*EIO' | head -1 | grep -o "$call" || echo "$call: no such error"
                named | cmp - before; ls d
            done
            for call in CHECKPOINT CS; do
                SIMULATED_KFD_KILL=$call simulate bash -c "$S dump -t $P -D d -v0; sleep 0.1; [ -e d/inventory.img ]" && echo "$call: images"; named | cmp - before; rm -rf d; mkdir d
            done
            mount -t tmpfs -o size=2m small d; simulate $S dump -t $P -D d -v0 --json | grep -o "can.t save the [0-9]* bytes.*ENOSPC" | cut -d" " -f1-5; named | cmp - before; ls d
            """)
        #expect(result.output == calls.map { $0 + "\n" }.joined() + "can't save the 5001216 bytes\n", "\(result)")
    }

    @Test("a call that fails in a restore leaves nothing half made") func restoreFails() throws {
        let calls = ["RESTORE", "CS", "RESUME"]
        let result = try shell("""
            simulate $S dump -t $P -D d || echo DUMP-FAILED; gone
            for call in \(calls.joined(separator: " ")); do
                printf 'gpu 4369 128\\ngpu 8738 129\\n' > state
                SIMULATED_KFD_FAIL=$call simulate $S restore -d -D d -v0 --json | grep -o 'plugin amdgpu_plugin[^"]*EIO' | head -1 | grep -o "$call" || echo "$call: no such error"
                [ -e /proc/$P ] && echo "$call: something is left"
            done
            for image in d/amdgpu-pages-3-1111.img; do cp $image saved; truncate -s 5 $image; simulate $S restore -d -D d -v0 --json | grep -c 'is damaged: it is cut short'; cp saved $image; done
            simulate bash -c "$S restore -d -D d && kill -0 $P && echo well"
            """)
        #expect(result.output == calls.map { $0 + "\n" }.joined() + "1\nwell\n", "\(result)")
    }

    @Test("both sides tell before they act") func checks() throws {
        let result = try shell("""
            simulate $S dump --check-only -t $P -D d > /dev/null && echo "dump: well"; sort -u log | xargs; mv d checked; mkdir d; : > log
            $S explain -t $P | grep -c '^plugin *amdgpu_plugin may save'
            simulate $S dump -t $P -D d || echo DUMP-FAILED; gone
            no_nodes; node 0; node 1 4369 128 fw_version=400; node 2 8738 129 simd_count=128; : > log
            printf 'gpu 4369 128\\ngpu 8738 129\\n' > state
            simulate $S restore --check-only -D d | grep -o 'no GPU here.*'; simulate $S restore -d -D d -v0 --json | grep -o 'no GPU here[^"]*' | head -1; cat log
            KFD_FW_VER_CHECK=0 simulate $S restore --check-only -D d > /dev/null && echo "restore: well"; cat log
            simulate $S restore -D checked | grep -o 'no GPU here.*'; KFD_FW_VER_CHECK=0 simulate $S restore -D checked > /dev/null && echo "restore of a check: well"; cat log
            rm /dev/kfd; $S restore --check-only -D d | grep -o 'the dump used.*'
            """)
        let refusal = "no GPU here can take the place of the dump's GPU 0x1111: GPU 0x1111 has fw_version 400, less than 469 (KFD_FW_VER_CHECK=0 lets it pass); GPU 0x2222 has simd_count 128, not 256\n"
        #expect(result.output == """
            dump: well
            GET_VERSION 0 open /dev/kfd
            2
            \(refusal)\(refusal)restore: well
            \(refusal)restore of a check: well
            the dump used the plugin amdgpu_plugin, which is not here (this machine has no /dev/kfd, the device of AMD's compute driver)

            """, "\(result)")
    }

    @Test("check says whether the driver is there that this needs, and lacks nothing where no GPU is") func kernel() throws {
        let result = try shell("""
            gpu() { $S check --extra --json 2> /dev/null | python3 -c "import json, sys; c = json.load(sys.stdin); n = [d for d in c['details'] if d['name'] == 'amdgpu_plugin'][0]
            print(n['category'], n['supported'], n['needed_here'], n['finding'].split(': ')[0], c['ok'] == all(d['supported'] or not d['needed_here'] for d in c['details']))"; }
            echo "$(declare -f gpu); gpu" > gpu; export S
            simulate $S check --feature amdgpu_plugin; simulate bash gpu
            gpu; $S check --feature amdgpu_plugin 2>&1 | grep -o 'amdgpu_plugin is not[^:]*'; echo ${PIPESTATUS[0]}
            rm /dev/kfd; gpu; $S check --json 2> /dev/null | grep -c amdgpu
            """)
        #expect(result.output.split(separator: "\n").map { $0.replacing(/1\.[0-9]+,/, with: "1.N,") } == [
            "amdgpu_plugin is supported (amdkfd 1.N, GPUs 0x1111, 0x2222)", "plugin True True amdkfd 1.N, GPUs 0x1111, 0x2222 True",
            "plugin False True can't ask the driver for its version True", "amdgpu_plugin is not supported (processes that compute on AMD's GPUs (ROCm); can't ask the driver for its version", "1",
            "plugin False False there is no /dev/kfd True", "0",
        ], "\(result)")
    }

    @Test("an open /dev/kfd that is not saved: the remedy is that of the reason") func remedies() throws {
        let result = try shell("""
            head -c 32 /dev/urandom > key; chmod 600 key; touch plain
            remedy() { grep -o '"remedy":"[^"]*' | cut -d'"' -f4; }
            simulate $S dump -t $P -D d --encrypt key -v0 --json | remedy
            mount --bind plain /dev/kfd; $S dump -t $P -D d -v0 --json | remedy
            """)
        #expect(result.output == """
            dump without --encrypt: images of plugins are not encrypted
            run stasis where /dev/kfd is the driver's device, as it is for the process

            """, "\(result)")
    }

    @Test("what the driver does not give out is refused with the reason, and a tree without GPUs does not hear of them") func others() throws {
        let graphics = try shell("simulate $S dump -t $P -D d -v0 --json | grep -o 'which does not use /dev/kfd[^\"]*' | head -1; cat log; ls d", program: """
            import os, time
            os.open('/dev/dri/renderD129', os.O_RDWR); open('ready', 'w'); time.sleep(1000)
            """)
        #expect(graphics.output == "which does not use /dev/kfd: the kernel gives out memory for computing, not for graphics\n", "\(graphics)")
        let none = try shell("simulate $S dump -t $P -D d || echo DUMP-FAILED; gone; simulate bash -c \"$S restore -d -D d && kill -0 $P && echo well\"; cat log; ls d | grep amdgpu", program: "import time; open('ready', 'w'); time.sleep(1000)")
        #expect(none.output == "well\n", "\(none)")
    }
}
