import Foundation
import Testing

/// Options of dump and restore do what criu(8) says of them.
@Suite("options", .serialized) struct OptionTests {
    private func run(_ lines: String, program: String = "", says expected: String, within seconds: Double = 60) throws {
        let result = try NamespaceShell("options").run("mkdir d\n" + lines, program: program, within: seconds)
        #expect(result.output == expected, "\(result)")
    }

    @Test("--leave-stopped: after a dump, and after a restore, until somebody lets it run") func stopped() throws {
        try run("""
            stands() { for i in $(seq 100); do [ $(state) = T ] && break; sleep 0.01; done; state; }
            start; $S dump -t $P -D d -s; echo $? $(stands); kill -CONT $P; alive
            rm -r d; mkdir d; $S dump -t $P -D d; gone; $S restore -d -D d -s; echo $? $(stands); kill -CONT $P; alive
            """, says: "0 T\nalive\n0 T\nalive\n")
    }

    @Test("--restore-sibling: the root is a child of who called stasis; only with -d") func sibling() throws {
        try run("""
            start; $S dump -t $P -D d; gone; $S restore -D d -S 2>&1 | grep -o 'only with --restore-detached'
            bash -c "$S restore -d -S -D d --pidfile root; grep PPid: /proc/$P/status | tr '\\t' ' '; echo mine \\$\\$; cat d/root; echo; kill -9 $P; wait; echo done" | sed "s/$P/P/"  > told
            awk '/PPid/ {p = $2} /mine/ {m = $2} END {print p == m}' told; tail -n 2 told
            """, says: "only with --restore-detached\n1\nP\ndone\n")
    }

    @Test("--work-dir, --log-file, --pidfile, --status-fd, --display-stats; the statistics are true") func workDirectory() throws {
        try run(#"""
            mkdir w; start
            $S dump -t $P -D d -W w -o log -v4 --display-stats --status-fd 7 7> status > shown; echo $?; gone; xxd -p status
            $S restore -d -D d -W w -o rlog -v4 --display-stats --status-fd 7 7> status --pidfile root > reshown; echo $?; xxd -p status
            ls w; ls d | grep -c 'log\|stats\|root'; [ $(cat w/root) = $P ] && alive
            cat > look.py << 'END'
            import os, re
            def varint(b, i):
                v = s = 0
                while True:
                    v |= (b[i] & 127) << s; s += 7; i += 1
                    if b[i - 1] < 128: return v, i
            def fields(b):
                i, f = 0, {}
                while i < len(b):
                    t, i = varint(b, i)
                    n, i = varint(b, i)
                    if t & 7 == 2: f[t >> 3] = b[i:i + n]; i += n
                    else: f[t >> 3] = n
                return f
            def stats(name, field): d = open(name, 'rb').read(); return fields(fields(d[8:])[field])
            def shown(name, what): return int(re.search(what + ': ([0-9]+)', open(name).read())[1])
            d, r = stats('w/stats-dump', 1), stats('w/stats-restore', 2)
            written = sum(os.path.getsize('d/' + n) for n in os.listdir('d') if n.startswith('pages-')) // 4096
            print(0 < d[1] <= d[2], d[3] > 0, d[4] > 0, d[5] >= d[7], d[7] == written > 100)
            print([shown('shown', w) for w in ['Freezing time', 'Frozen time', 'Memory dump time', 'Memory write time', 'Memory pages scanned', 'Memory pages written']] == [d[1], d[2], d[3], d[4], d[5], d[7]])
            print(0 < r[3] < r[4], written - 8 <= r[5] <= written)
            print([shown('reshown', w) for w in ['Restore time', 'Forking time', 'Pages restored']] == [r[4], r[3], r[5]])
            END
            python3 look.py
            """#, says: "0\n00\n0\n00\nlog\nrlog\nroot\nstats-dump\nstats-restore\n0\nalive\nTrue True True True True\nTrue\nTrue True\nTrue\n")
    }

    @Test("--timeout: a task that does not stop in time ends the dump, and nothing is harmed; 0 is without limit") func timeout() throws {
        try run(#"""
            start; $S dump -t $P -D d -R --timeout 0; echo $?; rm -r d; mkdir d; finish
            cc -x c -o blocked - <<< '#include <unistd.h>
            int main(void) { if (!vfork()) { for (;;) pause(); } }'
            setsid ./blocked & P=$!; disown $P; for i in $(seq 500); do [ "$(state)" = D ] && break; sleep 0.01; done; C=$(pgrep -P $P)
            $S dump -t $P -D d --timeout 1 2>&1 | grep -o 'did not stop within 1 s: it waits in vfork for its child'; ls d
            state; state $C; grep TracerPid /proc/$P/status /proc/$C/status | cut -f2 | xargs
            kill -9 $C; gone
            """#, says: "0\ndid not stop within 1 s: it waits in vfork for its child\nD\nS\n0 0\n")
    }

    @Test("--action-script: its points in their order; where it fails the dump or restore does, as long as that can be taken back") func hooks() throws {
        try run(#"""
            printf '#!/bin/sh\necho "$CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID" >> points\n[ "$CRTOOLS_SCRIPT_ACTION" != "$BAD" ]\n' > text; install -m 755 text hook
            O="--action-script $PWD/hook -W ."; export BAD=none; start
            points() { sed "s/$P/P/" points | xargs; rm points; }
            mkdir e; $S pre-dump -t $P -D e $O; points
            $S dump -t $P -D d $O; points; gone; $S restore -d -D d $O; points
            for BAD in pre-dump post-dump; do rm -r d; mkdir d; $S dump -t $P -D d $O 2> told; echo $BAD $?; grep -c "failed at $BAD" told; ls d | grep inventory; rm -f points; alive; done
            BAD=none; $S dump -t $P -D d $O; gone
            for BAD in pre-restore post-restore pre-resume post-resume; do
                $S restore -d -D d $O 2> told; echo $BAD $?; grep -c "failed at $BAD" told; [ ! -e /proc/$P ] && echo gone || { alive; finish; }
            done
            """#, says: """
                pre-dump P
                pre-dump P post-dump P
                pre-restore post-restore P pre-resume P post-resume P
                pre-dump 1\n1\nalive\npost-dump 1\n1\nalive
                pre-restore 1\n1\ngone\npost-restore 1\n1\ngone\npre-resume 0\n1\nalive\npost-resume 0\n1\nalive

                """)
    }

    @Test("configuration files: the machine's, the user's, the one that is named, that of CRIU_CONFIG_FILE") func configuration() throws {
        try run("""
            mount -t tmpfs etc /etc; mkdir /etc/criu .criu; export HOME=$PWD
            echo "leave-running # the tree" > /etc/criu/default.conf; echo "log-file home.log" > .criu/default.conf; echo leave-running > own; echo "leave-stopped" > variable
            start; dump() { rm -r d; mkdir d; $S dump -t $P -D d "$@"; echo $? $(ls d | grep log) $(state); }
            dump; dump --config own; CRIU_CONFIG_FILE=variable dump --no-default-config; kill -CONT $P; alive
            dump --config nowhere 2>&1 | grep -o 'no such file'; dump --no-default-config 2> told | cut -d' ' -f1; gone
            """, says: "0 home.log S\n0 S\n0 T\nalive\nno such file\n0\n")
    }

    @Test("--file-validation: by size always, by build id unless it was dumped or restored with filesize") func validation() throws {
        try run(#"""
            library() { cc -shared -o lib.so -x c - -Wl,--build-id=sha1 <<< "int f(void) { return $1; }"; }
            library 1; echo 123 > data; start; $S dump -t $P -D d; gone; library 2
            $S restore -d -D d 2>&1 | grep -o 'bad build-ID'; $S restore -d -D d --file-validation filesize; alive; rm -r d; mkdir d
            $S dump -t $P -D d --file-validation filesize; gone; library 3; $S restore -d -D d; alive; finish
            echo 1234 > data; for mode in filesize buildid; do $S restore -d -D d --file-validation $mode 2>&1 | grep -o 'bad size 5 (expect 4)'; done
            """#, program: "L = ctypes.CDLL('./lib.so'); f = open('data')", says: "bad build-ID\nalive\nalive\nbad size 5 (expect 4)\nbad size 5 (expect 4)\n")
    }

    @Test("--freeze-cgroup: of version 2 and 1; it runs again afterwards, or stays frozen if it was", arguments: [2, 1]) func freezeCgroup(version: Int) throws {
        try run(#"""
            V=\#(version); mkdir groups
            if [ $V = 2 ]; then mount -t cgroup2 groups groups; control=cgroup.freeze; on=1; off=0; else mount -t cgroup -o freezer groups groups; control=freezer.state; on=FROZEN; off=THAWED; fi || exit 1
            group=groups/stasis-test-$$-$(date +%N); mkdir $group
            trap 'echo $off > $group/$control; kill -9 $P; for i in $(seq 100); do rmdir $group 2> /dev/null && break; sleep 0.01; done; umount groups' EXIT
            start; echo $P > $group/cgroup.procs
            $S dump -t $P -D d -R --freeze-cgroup $PWD/$group -o log -v4; echo $?; grep -c "frozen by its cgroup" d/log; [ $(cat $group/$control) = $off ] && alive
            mkdir e; $S dump -t $P -D e -R --freeze-cgroup $PWD 2>&1 | grep -o 'is not a freezer cgroup'
            echo $on > $group/$control; for i in $(seq 300); do grep -q "frozen 1" $group/cgroup.events 2> /dev/null || [ $V = 1 ] && break; sleep 0.01; done
            $S dump -t $P -D e -R --freeze-cgroup $PWD/$group; echo $? $(cat $group/$control); echo $off > $group/$control; alive
            rm -r d; mkdir d; $S dump -t $P -D d --freeze-cgroup $PWD/$group; gone; $S restore -d -D d; alive
            """#, says: "0\n1\nalive\nis not a freezer cgroup\n0 \(version == 2 ? "1" : "FROZEN")\nalive\nalive\n")
    }

    @Test("--shell-job: a job of one terminal goes on as a job of another") func shellJob() throws {
        try run(#"""
            cat > job.py << 'END'
            import os, time
            open('ready', 'w').write(str(os.getpid()))
            while not os.path.exists('go'): time.sleep(0.01)
            while True: print('on', os.ttyname(1), os.tcgetpgrp(1) == os.getpgrp(), open('/proc/self/stat').read().split()[6] != '0', flush=True); time.sleep(0.05)
            END
            script -qfc 'python3 job.py; true' first > /dev/null < /dev/null & for i in $(seq 500); do [ -s ready ] && break; sleep 0.02; done; P=$(cat ready); T=$(readlink /proc/$P/fd/1)
            $S dump -t $P -D d 2>&1 | grep -o 'shell-job' | head -1; $S dump -t $P -D d -j; echo $?; gone; touch go
            mkdir held; python3 -c "import os, time; m, s = os.openpty(); open('held/ready', 'w'); time.sleep(100)" & for i in $(seq 300); do [ -e held/ready ] && break; sleep 0.01; done
            script -qfc "tty > second-name; $S restore -D d -j; true" second > /dev/null < /dev/null & for i in $(seq 500); do grep -q ^on second && break; sleep 0.02; done
            grep ^on second | head -1 | tr -d '\r' | sed "s|$(cat second-name)|second|"; [ "$T" != "$(cat second-name)" ] && echo another
            kill -9 $P
            """#, says: "shell-job\n0\non second True True\nanother\n")
    }

    @Test("32-bit code is refused in words, by dump and explain, and runs on") func code32() throws {
        try run(#"""
            gcc -m32 -nostdlib -static -x c -o old - <<< 'void _start(void) { for (;;) __asm__ volatile("int $0x80" : : "a"(29)); }' || exit
            setsid ./old & P=$!; disown $P; for i in $(seq 500); do [ "$(readlink /proc/$P/exe)" = $PWD/old -a "$(state)" = S ] && break; sleep 0.01; done
            $S dump -t $P -D d 2>&1 | grep -o '32-bit tasks are not supported yet'; $S dump --check-only -t $P -D d | grep -o '32-bit tasks are not supported yet'; ls d; state; kill -9 $P
            """#, says: "32-bit tasks are not supported yet\n32-bit tasks are not supported yet\nS\n")
    }

    @Test("progress is shown on a terminal, and nowhere else") func progress() throws {
        try run(#"""
            printf '#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != pre-dump ] || sleep 0.7\n' > slow; chmod +x slow
            start; script -qfc "$S dump -t $P -D d -R --compress zstd:9 --action-script $PWD/slow" shown > /dev/null < /dev/null
            tr '\r' '\n' < shown | grep -c '[0-9]%.*MiB.*MiB/s.*left' | sed 's/^[1-9][0-9]*$/shown/'; rm -r d; mkdir d
            $S dump -t $P -D d -R --compress zstd:9 --action-script $PWD/slow > plain 2>&1; echo $? $(wc -c < plain)
            """#, program: "m = os.urandom(48 << 20)", says: "shown\n0 0\n")
    }
}
