import Foundation
import Testing

/// Lines of bash(1) in mount, pid, ipc and network namespaces, with terminals, of their own, in a scratch directory; all of it goes with the value.
final class NamespaceShell {
    let directory: String

    init(_ name: String) throws {
        directory = NSTemporaryDirectory() + "stasis-\(name)-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// What the lines may use: $S is stasis; `start` starts program.py, $P, and waits for its file `ready`, `gone` for its end; `alive` asks it whether it runs.
    private static let head = #"""
        set -u; ip link set lo up
        mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx  # a terminal's number may be another test's
        for n in $(ls /proc/$$/fd); do [ $n -gt 2 -a $n -ne 255 ] && eval "exec $n>&-"; done
        start() {
            rm -f ready; setsid "${@:-python3}" program.py < /dev/null > out 2>&1 & P=$!; disown $P
            for i in $(seq 500); do [ -e ready ] && break; sleep 0.02; done; sleep 0.02
        }
        gone() { for i in $(seq 300); do [ -e /proc/$P ] || return; sleep 0.01; done; echo "$P is still there"; }
        state() { sed -n 's/^State:\t\(.\).*/\1/p' /proc/${1:-$P}/status; }
        alive() { rm -f alive; kill -USR1 $P; for i in $(seq 300); do [ -e alive ] && { echo alive; return; }; sleep 0.01; done; echo "$P does not answer: $(state)"; cat out; }
        finish() { kill -9 $P; gone; }

        """#
    private static let program = """
        import ctypes, os, signal, sys, time
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal.signal(signal.SIGUSR1, lambda *a: open('alive', 'w').close())

        """

    /// Answers what the lines print.
    /// - Parameter program: Python that program.py runs before it says that it is ready and sleeps.
    func run(_ lines: String, program: String = "", within seconds: Double = 60) throws -> Command.Result {
        try (Self.program + program + "\nopen('ready', 'w').close()\nwhile True: time.sleep(1000)\n").write(toFile: directory + "/program.py", atomically: false, encoding: .utf8)
        try ("S=\(Binaries.stasis); cd \(directory)\n" + Self.head + lines + "\n").write(toFile: directory + "/script", atomically: false, encoding: .utf8)
        return try Command("/usr/bin/unshare", ["-m", "-i", "-n", "-pf", "--mount-proc", "--kill-child", "/bin/bash", directory + "/script"], in: directory).run(within: seconds)
    }
}
