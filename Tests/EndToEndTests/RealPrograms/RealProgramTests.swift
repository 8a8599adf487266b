import Foundation
import Testing

/// Unmodified programs: started, dumped, restored and asked for their state.
extension EndToEnd {
    @Suite("real programs", .serialized) struct RealPrograms {
        /// Runs `body` in a run named `name`; a missing program is a failure, never a skip.
        private func with(_ name: String, needs programs: [String], _ body: (Run) throws -> Void) throws {
            let run = try Run(name)
            run.reporting(again: "swift test --filter RealPrograms", as: "program-\(name)") { run in
                for program in programs where !FileManager.default.isExecutableFile(atPath: program) {
                    throw Failure("\(program) is missing: install what the tests need (README)")
                }
                try body(run)
            }
        }

        private func cycle(_ run: Run) throws {
            try run.dumpAndKill()
            try run.restore()
        }

        /// Whole lines of a file of the run.
        private func lines(_ run: Run, _ file: String) -> [String] {
            let text = String.contents(of: run.folder + "/" + file) ?? ""
            return text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init)
        }

        private func awaitLines(_ run: Run, _ file: String, moreThan count: Int) throws {
            guard eventually(within: 15, { lines(run, file).count > count }) else {
                throw Failure("'\(file)' stays at \(lines(run, file).count) lines; tasks: \(run.tasks().map { "\($0.pid) \($0.state) \($0.commandLine)" })")
            }
        }

        @Test("a shell pipeline goes on without a line lost or doubled") func pipeline() throws {
            try with("pipeline", needs: ["/bin/bash", "/usr/bin/tee"]) { run in
                let script = "while :; do n=$((n+1)); echo $n; sleep 0.02; done | while read a; do echo $((a*2)); done | tee -a out >/dev/null"
                try run.start(["--detached-exec", "/bin/bash", "-c", script])
                try awaitLines(run, "out", moreThan: 10)
                for _ in 0..<2 {
                    try cycle(run)
                    try awaitLines(run, "out", moreThan: lines(run, "out").count + 10)
                }
                let got = lines(run, "out")
                guard got == (1...got.count).map({ "\($0 * 2)" }) else { throw Failure("lines are lost, doubled or torn: \(got)") }
            }
        }

        @Test("tail -f sees no error and goes on") func tail() throws {
            try with("tail", needs: ["/usr/bin/tail"]) { run in
                _ = FileManager.default.createFile(atPath: run.folder + "/log", contents: Data("first\n".utf8))
                try run.start(["--detached-exec", "/bin/sh", "-c", "exec tail ---disable-inotify -s 0.2 -F log >seen 2>errors"])
                try awaitLines(run, "seen", moreThan: 0)
                try run.dump(["-R"])
                try cycle(run)
                let log = FileHandle(forWritingAtPath: run.folder + "/log")
                try log?.seekToEnd()
                try log?.write(contentsOf: Data("second\n".utf8))
                try awaitLines(run, "seen", moreThan: 1)
                guard lines(run, "seen") == ["first", "second"], lines(run, "errors").isEmpty else {
                    throw Failure("seen \(lines(run, "seen")), errors \(lines(run, "errors"))")
                }
            }
        }

        @Test("python with threads and multiprocessing") func python() throws {
            let script = """
                import multiprocessing, os, sys, threading, time
                def child(tasks, results):
                    while True:
                        n = tasks.get()
                        results.put((n, n * n, os.getpid()))
                def count(counter, lock):
                    while True:
                        with lock: counter[0] += 1
                        time.sleep(0.01)
                if __name__ == '__main__':
                    multiprocessing.set_start_method('fork')
                    tasks, results = multiprocessing.Queue(), multiprocessing.Queue()
                    children = [multiprocessing.Process(target=child, args=(tasks, results), daemon=True) for _ in range(3)]
                    for c in children: c.start()
                    counter, lock = [0], threading.Lock()
                    for _ in range(4): threading.Thread(target=count, args=(counter, lock), daemon=True).start()
                    pids = {c.pid for c in children}
                    with open('out', 'a') as out:
                        for n in range(10**9):
                            before = counter[0]
                            tasks.put(n)
                            got = results.get()
                            assert got[:2] == (n, n * n) and got[2] in pids, got
                            time.sleep(0.03)
                            assert counter[0] > before, 'the threads stand still'
                            print(n, file=out, flush=True)
                """
            let python = (try? Command("/bin/sh", ["-c", "python3 -c 'import sys; print(sys.executable)'"], in: "/").run().output.trimmed) ?? ""
            try with("python", needs: [python]) { run in
                _ = FileManager.default.createFile(atPath: run.folder + "/program.py", contents: Data(script.utf8))
                try run.start(["--detached-exec", "/bin/sh", "-c", "exec \(python) program.py 2>errors"])
                try awaitLines(run, "out", moreThan: 5)
                for _ in 0..<2 {
                    try cycle(run)
                    try awaitLines(run, "out", moreThan: lines(run, "out").count + 10)
                }
                let got = lines(run, "out"), errors = lines(run, "errors")
                guard got == (0..<got.count).map({ "\($0)" }), errors.isEmpty else { throw Failure("\(got.suffix(3)) \(errors)") }
            }
        }

        @Test("redis without clients keeps its keys and serves on") func redis() throws {
            let server = "/usr/bin/redis-server", client = "/usr/bin/redis-cli"
            try with("redis", needs: [server, client]) { run in
                func ask(_ words: String...) throws -> String {
                    let result = try Command(client, ["-s", run.folder + "/socket"] + words, in: run.folder).run(within: 10)
                    guard result.succeeded else { throw Failure("redis-cli \(words): \(result)") }
                    return result.output.trimmed
                }
                try run.start(["--detached-exec", server, "--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no"])
                guard eventually({ (try? ask("ping")) == "PONG" }) else { throw Failure("redis-server does not start") }
                for key in 0..<50 { _ = try ask("set", "key:\(key)", "value \(key * 7)") }
                _ = try ask("set", "passing", "1", "ex", "1000")
                usleep(200_000)  // the last client's connection is gone
                for _ in 0..<2 {
                    try cycle(run)
                    guard eventually({ (try? ask("ping")) == "PONG" }) else { throw Failure("the restored server does not answer") }
                    for key in [0, 13, 49] where try ask("get", "key:\(key)") != "value \(key * 7)" { throw Failure("key:\(key) has changed") }
                    guard try ask("dbsize") == "51", let left = Int(try ask("ttl", "passing")), left > 800 else {
                        throw Failure("\(try ask("dbsize")) keys, \(try ask("ttl", "passing")) s left")
                    }
                    usleep(200_000)
                }
                guard try ask("incr", "counter") == "1" else { throw Failure("the restored server can't count") }
            }
        }

        @Test("tmux with shells: their screens and variables") func tmux() throws {
            let tmux = "/usr/bin/tmux"
            try with("tmux", needs: [tmux]) { run in
                func ask(_ words: String...) throws -> String {
                    var environment = run.environment
                    environment["TMUX"] = ""
                    environment["PS1"] = "$ "
                    let result = try Command(tmux, ["-S", run.folder + "/socket", "-f", "/dev/null"] + words, in: run.folder, environment: environment)
                        .run(within: 10)
                    guard result.succeeded else { throw Failure("tmux \(words): \(result)") }
                    return result.output.trimmed
                }
                // Detached: the server that it leaves behind would hold the descriptor by which Foundation awaits a child's end.
                try run.start([
                    "--detached-exec", tmux, "-S", run.folder + "/socket", "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24",
                    "-s", "one", "/bin/bash --norc",
                ])
                guard eventually({ (try? ask("display-message", "-p", "#{pid}")) != nil }) else { throw Failure("tmux does not start") }
                _ = try ask("new-window", "-t", "one", "/bin/bash --norc")
                guard let server = pid_t(try ask("display-message", "-p", "#{pid}")) else { throw Failure("no pid of the server") }
                run.adopt(server)
                _ = try ask("send-keys", "-t", "one:0", "secret=4711; echo before-$((40+2))", "Enter")
                guard eventually({ (try? ask("capture-pane", "-p", "-t", "one:0").contains("before-42")) == true }) else {
                    throw Failure("the shell does not answer before the dump")
                }
                let screen = try ask("capture-pane", "-p", "-t", "one:0")
                usleep(200_000)
                for round in 0..<2 {
                    try cycle(run)
                    guard eventually({ (try? ask("list-windows", "-t", "one").split(separator: "\n").count) == 2 }) else {
                        throw Failure("the restored server does not answer")
                    }
                    if round == 0, try ask("capture-pane", "-p", "-t", "one:0") != screen { throw Failure("the screen has changed") }
                    _ = try ask("send-keys", "-t", "one:0", "echo after-\(round)-$secret", "Enter")
                    guard eventually({ (try? ask("capture-pane", "-p", "-t", "one:0").contains("after-\(round)-4711")) == true }) else {
                        throw Failure("the restored shell does not answer: \(try ask("capture-pane", "-p", "-t", "one:0"))")
                    }
                    usleep(200_000)
                }
            }
        }

        @Test("a Java virtual machine counts on in all its threads") func java() throws {
            let source = """
                import java.util.concurrent.atomic.*;
                public class Counter {
                    public static void main(String[] arguments) throws Exception {
                        AtomicLong total = new AtomicLong();
                        for (int i = 0; i < 3; i++) new Thread(() -> { while (true) { total.incrementAndGet(); try { Thread.sleep(1); } catch (Exception e) {} } }).start();
                        try (var out = new java.io.FileWriter("out")) {
                            for (int n = 0;; n++) {
                                long before = total.get();
                                byte[][] garbage = new byte[64][10000];
                                Thread.sleep(20);
                                // After a restore this thread may be the first that runs.
                                for (int tries = 0; total.get() == before; tries++) { if (tries == 200) throw new Error("the threads stand still"); Thread.sleep(20); }
                                out.write(n + "\\n");
                                out.flush();
                            }
                        }
                    }
                }
                """
            try with("java", needs: ["/usr/bin/java"]) { run in
                _ = FileManager.default.createFile(atPath: run.folder + "/Counter.java", contents: Data(source.utf8))
                try run.start(["--detached-exec", "/bin/sh", "-c", "exec /usr/bin/java -Xmx96m -XX:+UseSerialGC Counter.java 2>errors"])
                guard eventually(within: 60, { lines(run, "out").count > 20 }) else { throw Failure("java does not start: \(lines(run, "errors"))") }
                for _ in 0..<2 {
                    try cycle(run)
                    try awaitLines(run, "out", moreThan: lines(run, "out").count + 20)
                }
                let got = lines(run, "out")
                guard got == (0..<got.count).map({ "\($0)" }), lines(run, "errors").isEmpty else {
                    throw Failure("\(got.suffix(3)) \(lines(run, "errors"))")
                }
            }
        }
    }
}
