import Foundation
import Glibc
import Linux
import Testing

/// What `stasis` answers on the command line, the engine being a program that only counts.
@Suite("command line of stasis", .serialized) final class CommandLineTests {
    /// Built beside the tests.
    private static let stasis = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        .appendingPathComponent("stasis").path

    private let directory = NSTemporaryDirectory() + "stasis-cli-\(UUID())"
    private var images: String { directory + "/images" }
    private var counters: [ThreadID] = []

    init() throws { try FileManager.default.createDirectory(atPath: images, withIntermediateDirectories: true) }

    deinit {
        for counter in counters {
            kill(counter.rawValue, SIGKILL)
            _ = try? Program.wait(for: counter)
        }
        try? FileManager.default.removeItem(atPath: directory)
    }

    private struct Answer { let status: Int32, output: String, errors: String }

    /// A line for sh(1), in which $S is stasis; run in the test's directory.
    private func shell(_ line: String, environment: [String: String] = [:]) throws -> Answer {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-c", line]
        process.currentDirectoryURL = URL(fileURLWithPath: directory)
        var variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        variables["S"] = Self.stasis
        process.environment = variables
        let output = directory + "/.stdout", errors = directory + "/.stderr"
        for path in [output, errors] { #expect(FileManager.default.createFile(atPath: path, contents: nil)) }
        process.standardOutput = FileHandle(forWritingAtPath: output)
        process.standardError = FileHandle(forWritingAtPath: errors)
        process.standardInput = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        return Answer(
            status: process.terminationStatus, output: try String(contentsOfFile: output, encoding: .utf8),
            errors: try String(contentsOfFile: errors, encoding: .utf8))
    }

    private func files(in path: String? = nil) throws -> Set<String> { Set(try Files.names(in: path ?? images)) }

    /// A program that counts into a file.
    private func startCounter() throws -> ThreadID {
        let output = try FileDescriptor.open(directory + "/counted", O_WRONLY | O_CREAT | O_TRUNC)
        let counter = try Program.start(Self.stasis, ["count"], output: output, inNewSession: true)
        counters.append(counter)
        for _ in 0..<100 where try count() == 0 { usleep(20_000) }
        #expect(try count() > 0)
        return counter
    }

    private func count() throws -> Int {
        try String(contentsOfFile: directory + "/counted", encoding: .utf8).split(separator: "\n").last.flatMap { Int($0) } ?? 0
    }

    /// Whether the counter counts on, without a number twice or lost.
    private func countsOn() throws -> Bool {
        let before = try count()
        for _ in 0..<100 where try count() <= before { usleep(20_000) }
        let numbers = try String(contentsOfFile: directory + "/counted", encoding: .utf8).split(separator: "\n").compactMap { Int($0) }
        return numbers.count > before && numbers == Array(1...numbers.count)
    }

    private func script(_ body: String) throws -> String {
        let path = directory + "/script"
        try ("#!/bin/sh\n" + body + "\n").write(toFile: path + ".text", atomically: false, encoding: .utf8)
        #expect(try Program.wait(for: Program.start("install", ["-m", "755", path + ".text", path])) == .exited(0))
        return path
    }

    @Test("--version answers as CRIU 4.2, and names ourselves") func version() throws {
        let answer = try shell("$S --version")
        #expect(answer.status == 0 && answer.output == "Version: 4.2\nStasis: 0.1.0\n" && answer.errors.isEmpty)
    }

    @Test("usage errors: status 1, what is wrong, what to do", arguments: [
        ("", "no command given"), ("dump", "dump needs the pid"), ("freeze", "unknown command \"freeze\""), ("dump -t 1x", "--tree \"1x\": not a number"),
        ("check --port 99999999", "--port \"99999999\": out of range"), ("dump -t 1 --tre3", "unknown option --tre3"),
        ("dump -t 1 --page-server", "--page-server needs to know where it is"), ("pre-dump", "pre-dump needs the pid"),
    ]) func usage(words: String, message: String) throws {
        let answer = try shell("$S " + words)
        #expect(answer.status == 1 && answer.output.isEmpty)
        #expect(answer.errors.hasPrefix("Error (") && answer.errors.contains(message), "\(answer.errors)")
    }

    @Test("--json makes an object of an error too") func jsonErrors() throws {
        let answer = try shell("$S dump -t 1 -D none --json 2>&-")
        let object = try #require(JSONSerialization.jsonObject(with: Data(answer.output.utf8)) as? [String: Any])
        let error = try #require(object["error"] as? [String: Any])
        #expect(answer.status == 1 && object["ok"] as? Bool == false && object["command"] as? String == "dump")
        #expect(error["object"] as? String == "image directory none" && error["errno"] as? Int == 2 && error["remedy"] as? String != nil)
    }

    @Test("the log of -o is in the work directory, and standard error still has the reason") func log() throws {
        let answer = try shell("mkdir work; $S dump -t 2147483647 -D images -W work -o the.log -v4")
        #expect(answer.status == 1 && answer.errors.hasPrefix("stasis: cannot "), "\(answer.errors)")
        let log = try String(contentsOfFile: directory + "/work/the.log", encoding: .utf8)
        #expect(log.contains("Error (") && log.contains("2147483647") && log.hasPrefix("(00.0"), "\(log)")
        #expect(try Files.status(directory + "/work/the.log").mode & 0o777 == 0o600)
        #expect(try files().isEmpty)
    }

    @Test("-v0 says nothing") func silence() throws {
        let answer = try shell("$S dump -t 2147483647 -D images -v0")
        #expect(answer.status == 1 && answer.output.isEmpty && answer.errors.isEmpty)
    }

    @Test("a dump that leaves the tree running, by a configuration file and with --json") func leaveRunning() throws {
        let counter = try startCounter()
        try "leave-running\njson\n".write(toFile: directory + "/conf", atomically: true, encoding: .utf8)
        let answer = try shell("$S dump -t \(counter) -D images --status-fd 3 3>status", environment: ["CRIU_CONFIG_FILE": "conf"])
        #expect(answer.status == 0, "\(answer.errors)")
        let object = try #require(JSONSerialization.jsonObject(with: Data(answer.output.utf8)) as? [String: Any])
        #expect(object["root"] as? Int == Int(counter.rawValue) && object["processes"] as? Int == 1 && object["images"] as? String == images)
        #expect(try Files.read(directory + "/status") == [0])
        #expect(try files().contains("inventory.img"))
        #expect(try countsOn())
    }

    @Test("a post-dump script that fails gives the dump its status, and the tree its life") func postDump() throws {
        let counter = try startCounter()
        let path = try script("[ $CRTOOLS_SCRIPT_ACTION = post-dump ] && exit 7; exit 0")
        let answer = try shell("$S dump -t \(counter) -D images --action-script \(path)")
        #expect(answer.status == 7 && answer.errors.contains("failed at post-dump: exit status 7"), "\(answer.errors)")
        #expect(try !files().contains("inventory.img"))
        #expect(try countsOn())
    }

    @Test("dumped, planned, refused, restored: pidfile, waiting and the hook points' order") func restore() throws {
        let counter = try startCounter()
        #expect(try shell("$S dump -t \(counter) -D images -v0").status == 0)
        #expect(try Program.wait(for: counter) == .killed(signal: SIGKILL))
        counters.removeAll()

        let plan = try shell("$S restore -D images --plan")
        #expect(plan.status == 0 && plan.output.contains("memory of \(counter)") && kill(counter.rawValue, 0) != 0)

        let refused = try shell("echo 1 > images/x.pid; $S restore -d -D images --pidfile x.pid")
        #expect(refused.status == 1 && refused.errors.contains("x.pid") && refused.errors.contains("(EEXIST)"), "\(refused.errors)")
        #expect(kill(counter.rawValue, 0) != 0)
        #expect(try String(contentsOfFile: images + "/x.pid", encoding: .utf8) == "1\n")

        // The script of post-resume ends the restored program, for which the restore waits.
        let path = try script("""
            echo $CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID >> \(directory)/points
            [ $CRTOOLS_SCRIPT_ACTION = post-resume ] && { sleep 0.5; kill -9 $CRTOOLS_INIT_PID; }
            exit 0
            """)
        let before = try count()
        let restored = try shell("$S restore -D images --pidfile y.pid --action-script \(path)")
        #expect(restored.status == 0, "\(restored.errors)")
        #expect(try String(contentsOfFile: images + "/y.pid", encoding: .utf8) == "\(counter)")
        #expect(try count() > before)
        let points = try String(contentsOfFile: directory + "/points", encoding: .utf8).split(separator: "\n").map(String.init)
        #expect(points == ["pre-restore", "post-restore \(counter)", "pre-resume \(counter)", "post-resume \(counter)"])
    }

    @Test("--exec-cmd becomes the parent of the tree") func execCommand() throws {
        let counter = try startCounter()
        #expect(try shell("$S dump -t \(counter) -D images -v0").status == 0)
        #expect(try Program.wait(for: counter) == .killed(signal: SIGKILL))
        counters.removeAll()
        let answer = try shell(
            "ulimit -Sn 100; $S restore -D images --exec-cmd -- sh -c 'grep PPid: /proc/\(counter)/status; echo Me: $$; ulimit -Sn; kill -9 \(counter); exit 3'")
        let words = answer.output.split(whereSeparator: \.isWhitespace)
        #expect(answer.status == 3 && words.count == 5 && words[1] == words[3] && words[4] == "100", "\(answer)")
    }

    @Test("the demo counts on") func demo() throws {
        let answer = try shell("$S demo")
        #expect(answer.status == 0 && answer.output.contains("without a number lost"), "\(answer)")
    }
}
