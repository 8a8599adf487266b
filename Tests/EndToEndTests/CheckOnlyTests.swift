import Foundation
import Glibc
import Linux
import Testing

/// Causes for which a restore fails: `restore --check-only` finds each before, and the restore ends with the same words.
@Suite("check-only") final class CheckOnlyTests {
    private let directory = NSTemporaryDirectory() + "stasis-check-\(UUID().uuidString.prefix(8))"
    private var started: [pid_t] = []

    init() throws { try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true) }

    deinit {
        for pid in started {
            kill(pid, SIGKILL)
            var status: Int32 = 0
            _ = unsafe waitpid(pid, &status, 0)
        }
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// Runs lines of bash(1) in mount, pid, ipc and network namespaces, where $S is stasis; answers what they print.
    private func shell(_ lines: String) throws -> Command.Result {
        let script = directory + "/script"
        // What the tests' own process has open is no part of what is tested.
        let head = "set -u\nS=\(Binaries.stasis)\ncd \(directory)\nip link set lo up\nmount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx\nfor n in $(ls /proc/$$/fd); do [ $n -gt 2 -a $n -ne 255 ] && eval \"exec $n>&-\"; done\n"
        try (head + lines + "\n").write(toFile: script, atomically: false, encoding: .utf8)
        return try Command("/usr/bin/unshare", ["-m", "-i", "-n", "-pf", "--mount-proc", "--kill-child", "/bin/bash", script], in: directory).run(within: 60)
    }

    /// A cause: what the program holds, what happens between dump and restore, what the verdict says.
    struct Cause: Sendable, CustomTestStringConvertible {
        let name: String
        /// Bash before the program starts, and what starts it, in the background.
        var before = ":", start = "setsid python3 program.py"
        /// Python that the program runs before it sleeps.
        var program = "pass"
        var dump = "", restore = ""
        /// What starts both restores.
        var starter = ""
        /// Bash between dump and restore.
        let harm: String
        let words: String
        var testDescription: String { name }
    }

    private static let library = "cc -shared -o lib.so -x c - -Wl,--build-id=sha1 <<< 'int f(void){return 0;}'"
    /// Fields more in the one entry of an image, whose length comes after so many bytes: protobuf joins them with those that are there.
    private static func adding(_ fields: String, to image: String, after head: Int) -> String {
        "python3 -c \"d=open('d/\(image)','rb').read(); m=d[\(head + 4):]+bytes.fromhex('\(fields)'); open('d/\(image)','wb').write(d[:\(head)]+len(m).to_bytes(4,'little')+m)\"\n"
    }
    /// Runs a program on a kernel without PR_GET_MDWE: prctl(66) answers EINVAL (seccomp(2)).
    private static let without = """
        import ctypes, os, struct, sys
        code = b''.join(struct.pack('HBBI', *line) for line in [(0x20, 0, 0, 0), (0x15, 0, 3, 157), (0x20, 0, 0, 16), (0x15, 0, 1, 66), (6, 0, 0, 0x50016), (6, 0, 0, 0x7fff0000)])
        filter = ctypes.create_string_buffer(code); L = ctypes.CDLL(None)
        L.prctl(38, 1, 0, 0, 0)
        if L.prctl(22, 2, ctypes.c_char_p(struct.pack('HxxxxxxQ', 6, ctypes.addressof(filter)))): sys.exit('no filter')
        os.execvp(sys.argv[1], sys.argv[1:])
        """
    static let causes: [Cause] = [
        Cause(name: "pid taken", harm: "(set -- $P; python3 -c \"import ctypes,os\nL=ctypes.CDLL(None)\nopen('/proc/sys/kernel/ns_last_pid','w').write(str($P-1))\nif os.fork()==0:\n import time; open('held','w'); time.sleep(60)\") & until [ -e held ]; do sleep 0.02; done", words: "its id is taken by"),
        Cause(name: "file missing", program: "f=open('data')", harm: "rm data", words: "No such file or directory"),
        Cause(name: "file of another size", program: "f=open('data')", harm: "echo more >> data", words: "bad size"),
        Cause(name: "file of another mode", program: "f=open('data')", harm: "chmod 600 data", words: "bad mode"),
        Cause(name: "file became a directory", program: "f=open('data')", harm: "rm data; mkdir data", words: "bad mode"),
        Cause(name: "working directory missing", program: "os.mkdir('here'); os.chdir('here')", harm: "rm -r here", words: "No such file or directory"),
        Cause(name: "fifo missing", program: "os.mkfifo('fifo'); f=os.open('fifo', os.O_RDWR)", harm: "rm fifo", words: "No such file or directory"),
        Cause(name: "mapped file missing", program: "import mmap; f=open('data'); m=mmap.mmap(f.fileno(),4,prot=mmap.PROT_READ); f.close()", harm: "rm data", words: "No such file or directory"),
        Cause(name: "library updated", before: library, program: "import ctypes; L=ctypes.CDLL('./lib.so')", harm: "cc -shared -o lib.so -x c - -Wl,--build-id=sha1 <<< 'int other(void){return 1;}'", words: "has changed since the dump"),
        Cause(name: "library changed behind the same size and build id", before: library, program: "import ctypes; L=ctypes.CDLL('./lib.so')", dump: "--digest",
              harm: "printf x | dd of=lib.so bs=1 seek=$(( $(stat -c %s lib.so) - 1 )) conv=notrunc status=none", words: "another digest"),
        Cause(name: "plugin missing", restore: "--no-verify", harm: adding("620d620b637564615f706c7567696e", to: "inventory.img", after: 4), words: "the plugin cuda_plugin"),
        Cause(name: "program missing", program: "open('ready','w'); os.execv('./nap', ['nap', '1000'])", harm: "rm nap", words: "No such file or directory"),
        Cause(name: "port taken", program: "import socket; s=socket.socket(); s.bind(('127.0.0.1', 45871)); s.listen()",
              harm: "python3 -c \"import socket,time; s=socket.socket(); s.bind(('127.0.0.1',45871)); s.listen(); open('held','w'); time.sleep(60)\" & until [ -e held ]; do sleep 0.02; done", words: "is in use"),
        Cause(name: "UDP port taken", program: "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 45873))",
              harm: "python3 -c \"import socket,time; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1',45873)); open('held','w'); time.sleep(60)\" & until [ -e held ]; do sleep 0.02; done", words: "is in use"),
        Cause(name: "abstract name taken", program: "import socket; s=socket.socket(socket.AF_UNIX); s.bind('\\0'+os.getcwd()); s.listen()",
              harm: "python3 -c \"import socket,time,os; s=socket.socket(socket.AF_UNIX); s.bind('\\0'+os.getcwd()); s.listen(); open('held','w'); time.sleep(60)\" & until [ -e held ]; do sleep 0.02; done", words: "its name is in use"),
        Cause(name: "socket's path is a file", program: "import socket; s=socket.socket(socket.AF_UNIX); s.bind(os.getcwd()+'/sock'); s.listen()",
              harm: "rm sock; touch sock", words: "exists and is not a socket"),
        Cause(name: "socket's directory missing", program: "import socket; os.mkdir('run'); s=socket.socket(socket.AF_UNIX); s.bind(os.getcwd()+'/run/sock'); s.listen()",
              harm: "rm -r run", words: "No such file or directory"),
        Cause(name: "--file-locks not given", program: "import fcntl; f=open('data','r+'); fcntl.flock(f, fcntl.LOCK_EX)", dump: "--file-locks", harm: ":", words: "the programs held 1 file locks"),
        Cause(name: "lock taken", program: "import fcntl; f=open('data','r+'); fcntl.flock(f, fcntl.LOCK_EX)", dump: "--file-locks", restore: "--file-locks",
              harm: "python3 -c \"import fcntl,time; f=open('data','r+'); fcntl.flock(f, fcntl.LOCK_EX); open('held','w'); time.sleep(60)\" & until [ -e held ]; do sleep 0.02; done", words: "another process holds the file"),
        Cause(name: "temporary name gone", program: "f=open('data'); os.link('data','other'); os.unlink('data')", dump: "--link-remap", harm: "rm link_remap.*", words: "its temporary name"),
        Cause(name: "segment's key taken", program: "import ctypes; L=ctypes.CDLL(None); i=L.shmget(0x5145,4096,0o1600); L.shmat.restype=ctypes.c_void_p; a=L.shmat(i,None,0)",
              harm: "ipcrm -M 0x5145; python3 -c \"import ctypes; ctypes.CDLL(None).shmget(0x5145,8192,0o1600)\"", words: "another segment"),
        Cause(name: "CPU not recorded", dump: "--cpu-cap", restore: "--cpu-cap", harm: "rm d/cpuinfo.img", words: "without --cpu-cap"),
        // Bit 31 of word 1: no CPU of today has it.
        Cause(name: "CPU feature missing", dump: "--cpu-cap", restore: "--cpu-cap=ins --no-verify", harm: """
            python3 - <<'EDIT'
            image = open('d/cpuinfo.img', 'rb').read()
            def number(at):
                value = shift = 0
                while True:
                    byte = image[at]; value |= (byte & 127) << shift; at += 1; shift += 7
                    if byte < 128: return value, at
            def coded(value): return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + coded(value >> 7)
            at, words, fields = number(13)[1], 0, b''
            while at < len(image):
                tag, begin = number(at); value, at = number(begin)
                if tag & 7 == 2: fields += coded(tag) + coded(value) + image[at:at + value]; at += value; continue
                if tag >> 3 == 6: words += 1; value |= (words == 2) << 31
                fields += coded(tag) + coded(value)
            entry = bytes([10]) + coded(len(fields)) + fields
            open('d/cpuinfo.img', 'wb').write(image[:8] + len(entry).to_bytes(4, 'little') + entry)
            EDIT
            """, words: "needs 3dnow"),
        Cause(name: "session outside", start: "setsid bash -c 'python3 program.py & echo $! > pid; sleep 60'", harm: "true", words: "is led by a process outside"),
        Cause(name: "memory short", harm: "printf 'MemTotal: 9 kB\nMemAvailable: 9 kB\n' > short; mount --bind short /proc/meminfo", words: "this machine has"),
        Cause(name: "no room for a deleted file", before: "mkdir small; mount -t tmpfs -o size=1m none small", program: "f=open('small/data','w'); f.write('x'*600000); f.flush(); os.unlink('small/data')",
              harm: "head -c 900000 /dev/zero > small/other", words: "of which its file system has"),
        Cause(name: "mount missing", before: "mkdir small; mount -t tmpfs none small; touch small/data", program: "f=open('small/data')", harm: "umount small", words: "No such file or directory"),
        Cause(name: "device missing", before: "mknod device c 1 3", program: "f=open('device')", harm: "rm device", words: "No such file or directory"),
        Cause(name: "file of the caller not given", program: "f=open('data')",
              dump: "--external \"file[$(printf %x $(awk '/mnt_id/ {print $2}' /proc/$P/fdinfo/3)):$(printf %x $(stat -c %i data))]\"", harm: ":", words: "no descriptor was given for it"),
        Cause(name: "cgroup missing", before: "mkdir groups; mount -t cgroup -o none,name=stasis-check-$$ none groups; mkdir groups/one",
              start: "bash -c 'echo 0 > groups/one/cgroup.procs; exec setsid python3 program.py'", restore: "--manage-cgroups=none", harm: "rmdir groups/one", words: "it does not exist here"),
        Cause(name: "terminal not given", start: "script -qfc 'echo $$ > pid; exec python3 program.py' typescript", dump: "--shell-job", restore: "--shell-job", harm: ":",
              words: "none of descriptors 0, 1 and 2 is a terminal"),
        Cause(name: "--shell-job not given", start: "script -qfc 'echo $$ > pid; exec python3 program.py' typescript", dump: "--shell-job", harm: ":", words: "its master was outside the tree"),
        Cause(name: "terminal taken", program: "m,s=os.openpty(); open('pts','w').write(os.ttyname(s))", harm: """
            python3 -c "import os,time
            held=[os.openpty()]
            while os.ttyname(held[-1][1]) != open('pts').read(): held.append(os.openpty())
            open('held','w'); time.sleep(60)" & until [ -e held ]; do sleep 0.02; done
            """, words: "is taken by a terminal outside the tree"),
        Cause(name: "user unknown", before: "chmod 777 .", program: "os.setgroups([]); os.setgid(1234); os.setuid(1234)", starter: "unshare -U -r -m -pf --mount-proc --kill-child", harm: ":",
              words: "uid 1234 does not exist in our user namespace"),
        Cause(name: "ids not ours to give", starter: "unshare -U -r", harm: ":", words: "choosing its id is not ours"),
        Cause(name: "capability missing", starter: "setpriv --bounding-set=-sys_admin,-checkpoint_restore", harm: ":", words: "choosing its id needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"),
        Cause(name: "capability missing that the program had", starter: "setpriv --bounding-set=-chown,-net_raw", harm: ":", words: "it had CAP_CHOWN, CAP_NET_RAW"),
        // A task_core_entry more in the core image, whose oom_score_adj is -1000.
        Cause(name: "a limit that is not ours to raise", start: "setpriv --bounding-set=-sys_resource setsid python3 program.py", restore: "--no-verify", starter: "setpriv --bounding-set=-sys_resource",
              harm: adding("1a0b7098f8ffffffffffffff01", to: "core-$P.img", after: 8),
              words: "its OOM score adjustment -1000 is below ours"),
        // thread_core.creds.lsm_profile "prof"; lsmtype APPARMOR.
        Cause(name: "security label of a module that is not here", restore: "--no-verify", harm: adding("2a0852067a0470726f66", to: "core-$P.img", after: 8) + adding("3002", to: "inventory.img", after: 4),
              words: "the security label prof of AppArmor, which this kernel does not have"),
        Cause(name: "kernel feature missing", before: "cat > without.py << 'END'\n\(without)\nEND", program: "import ctypes; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)", starter: "python3 without.py", harm: ":",
              words: "never to be writable and executable (PR_SET_MDWE), which this kernel does not know"),
        Cause(name: "group unknown", before: "chmod 777 .", program: "os.setgroups([1234])", starter: "unshare -U -r -m -pf --mount-proc --kill-child", harm: ":", words: "gid 1234 does not exist in our user namespace"),
        Cause(name: "network interface missing", before: "ip link add gone type veth", program: "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, 25, b'gone'); s.bind(('0.0.0.0', 45872))",
              harm: "ip link del gone", words: "there is no network interface gone"),
        Cause(name: "network interface of a packet socket missing", before: "ip link add gone type veth", program: "import socket; s=socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); s.bind(('gone', 3))",
              harm: "ip link del gone", words: "there is no network interface with index"),
        Cause(name: "--tcp-established not given", program: "import socket; l=socket.create_server(('127.0.0.1', 45874)); c=socket.create_connection(('127.0.0.1', 45874)); s=l.accept()",
              dump: "--tcp-established", harm: ":", words: "it is a TCP connection (ESTABLISHED)"),
        Cause(name: "image damaged", harm: "truncate -s 20 d/mm-$P.img", words: "mm-"),
        Cause(name: "image missing", harm: "rm d/fdinfo-2.img", words: "fdinfo-2.img"),
        Cause(name: "pages cut short", harm: "truncate -s 4096 d/pages-1.img", words: "pages-1.img"),
        Cause(name: "a flipped byte", harm: "printf '\\377' | dd of=d/pages-1.img bs=1 seek=5000 conv=notrunc status=none", words: "is not as it was dumped"),
        Cause(name: "checksums missing", harm: "rm d/checksums.img", words: "checksums.img"),
        Cause(name: "pidfile exists", restore: "--pidfile p", harm: "touch d/p", words: "p'"),
    ]

    @Test("a cause is found before, in the words of the restore", arguments: causes)
    func found(cause: Cause) throws {
        try "import os,time\n\(cause.program)\nopen('ready','w')\nwhile True: time.sleep(1000)\n".write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
        let isReady = cause.name == "program missing" ? "[ $(readlink /proc/$P/exe) = $PWD/nap ]" : "[ -e ready ]"
        let lines = """
            mkdir d; echo some > data; cp "$(command -v sleep)" nap
            \(cause.before)
            \(cause.start) < /dev/null > out 2>&1 & P=$!
            for i in $(seq 500); do \(isReady) && break; sleep 0.02; done; sleep 0.05
            [ ! -e pid ] || P=$(cat pid)
            $S dump -t $P -D d \(cause.dump) < /dev/null || { echo DUMP-FAILED; exit; }
            for i in $(seq 100); do [ -e /proc/$P ] || break; wait $P 2>/dev/null; sleep 0.01; done
            \(cause.harm)
            \(cause.starter) $S restore --check-only -D d \(cause.restore) --json -o check.log < /dev/null > checked; echo "check $?"
            cat checked; echo
            \(cause.starter) $S restore -d -D d \(cause.restore) --json -o restore.log < /dev/null 2>/dev/null; echo "restore $?"
            """
        let result = try shell(lines)
        let output = result.output.split(separator: "\n").map(String.init)
        #expect(!result.output.contains("DUMP-FAILED"), "\(result)")
        #expect(output.contains("check 1"), "\(result)")
        #expect(output.contains("restore 1"), "\(result)")
        let objects = try output.filter { $0.hasPrefix("{") }.map { try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any]) }
        let report = try #require(objects.first { $0["check_only"] != nil }, "\(result)")
        let failure = try #require(objects.first { $0["error"] != nil }?["error"] as? [String: Any], "\(result)")
        let verdicts = try #require(report["verdicts"] as? [[String: Any]])
        let fails = verdicts.filter { $0["verdict"] as? String == "fails" }.compactMap { $0["message"] as? String }
        let message = try #require(failure["message"] as? String)
        #expect(fails.contains(message), "restore: \(message); check: \(fails)")
        #expect(message.contains(cause.words), "\(message)")
    }

    /// A program with what needs three options, and, if wanted, with what none answers.
    private func needy(refused: Bool) throws {
        let ring = refused ? "import ctypes; ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(b'\\0' * 8 + b'\\x02', 120))  # IORING_SETUP_SQPOLL" : "pass"
        try """
            import os, fcntl, time
            f = open('data', 'w'); fcntl.flock(f, fcntl.LOCK_EX)
            g = open('one', 'w'); os.link('one', 'two'); os.unlink('one')
            b = open('big', 'wb'); b.write(b'x' * 3000000); b.flush(); os.unlink('big')
            \(ring)
            open('ready', 'w')
            while True: time.sleep(1000)

            """.write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
    }
    private let start = """
        mkdir d; setsid python3 program.py < /dev/null > out 2>&1 & P=$!
        for i in $(seq 500); do [ -e ready ] && break; sleep 0.02; done

        """

    private func object(_ result: Command.Result) throws -> [String: Any] {
        let line = try #require(result.output.split(separator: "\n").first { $0.hasPrefix("{") }, "\(result)")
        return try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
    }

    @Test("a dump's check tells everything, leaves nothing and lets the program run on") func dumpCheck() throws {
        try needy(refused: true)
        let result = try shell(start + "$S dump --check-only -t $P -D d --json -o /dev/null; echo exit $?; ls -A d; kill -0 $P && echo alive; ls | grep -c link_remap")
        let report = try object(result)
        let options = try #require(report["verdicts"] as? [[String: Any]]).map { $0["option"] as? String ?? ($0["message"] as? String ?? "") }
        #expect(options.count == 4, "\(result)")
        #expect(options.contains("--file-locks") && options.contains("--link-remap") && options.contains { $0.hasPrefix("--ghost-limit ") })
        #expect(options.contains { $0.contains("io_uring") })
        #expect(result.output.hasSuffix("exit 1\nalive\n0\n"), "\(result)")
    }

    @Test("explain prints the command lines that work") func explained() throws {
        try needy(refused: false)
        let result = try shell(start + """
            $S explain -t $P > told; echo exit $?; cat told
            run() { eval "$(grep "^stasis $1 " told | sed "s|^stasis|$S|; s|DIR|d|") ${2:-}" < /dev/null; echo $1 $?; }
            run dump; for i in $(seq 100); do [ -e /proc/$P ] || break; wait $P 2>/dev/null; sleep 0.01; done
            run restore -d; kill -0 $P && echo alive
            """)
        #expect(result.output.contains("exit 0\n") && result.output.contains("dump 0\nrestore 0\nalive"), "\(result)")
    }

    @Test("explain names each of a thousand connections, and the option once") func manyConnections() throws {
        try """
            import os, socket, time
            l = socket.create_server(('127.0.0.1', 0)); held = []
            for i in range(500): held.append(socket.create_connection(l.getsockname())); held.append(l.accept()[0])
            open('ready', 'w')
            time.sleep(1000)

            """.write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
        let result = try shell(start + "$S explain -t $P > told; echo exit $?; grep -c '^needs   --tcp-established: fd' told; grep -o -- '--tcp-established' told | wc -l")
        #expect(result.output == "exit 0\n1000\n1002\n", "\(result)")
    }

    @Test("explain says what no option answers") func refused() throws {
        try needy(refused: true)
        let answer = try object(try shell(start + "$S explain -t $P --json"))
        #expect(answer["ok"] as? Bool == false && (answer["needs"] as? [Any])?.count == 3 && (answer["refused"] as? [Any])?.count == 1)
        #expect(answer["dump"] is NSNull)
    }

    @Test("an address that is not here is warned of: the socket can be bound, as it was") func foreignAddress() throws {
        try "import socket, time; s = socket.socket(); s.bind(('10.45.8.7', 45871)); s.listen(); open('ready', 'w'); time.sleep(1000)\n".write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
        let result = try shell("ip addr add 10.45.8.7/32 dev lo\n" + start + """
            $S dump -t $P -D d; wait $P 2>/dev/null
            $S restore --check-only -D d | grep -c 'none of this host'; ip addr del 10.45.8.7/32 dev lo
            $S restore --check-only -D d | grep -o 'its address.*none of this host'; $S restore -d -D d; ss -tln | grep -o '10.45.8.7:45871'
            """)
        #expect(result.output.contains("\n0\nits address 10.45.8.7:45871 is none of this host\n10.45.8.7:45871\n"), "\(result)")
    }

    @Test("images of a check are checked by a restore, not restored") func imagesOfCheck() throws {
        try needy(refused: false)
        let options = "--file-locks --link-remap --ghost-limit 10M"
        let result = try shell(start + """
            $S dump --check-only -t $P -D d \(options) > /dev/null; echo dump $?; ls d | grep -c pages-
            kill -9 $P; wait $P 2>/dev/null
            $S restore -D d --file-locks; echo restore $?
            $S restore -D d -o /dev/null > told; echo without $?; grep -c "restore with --file-locks" told
            """)
        #expect(result.output.contains("dump 0\n0\n"), "\(result)")
        #expect(result.output.contains("nothing is restored") && result.output.contains("restore 0\n") && result.output.contains("without 1\n1"), "\(result)")
    }
}
