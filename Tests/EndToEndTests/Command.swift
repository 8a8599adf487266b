import Foundation

/// A program that runs to its end, within a time.
struct Command {
    struct Result: CustomStringConvertible {
        let status: Int32, signal: Int32, timedOut: Bool, output: String
        var succeeded: Bool { status == 0 && signal == 0 && !timedOut }
        var description: String {
            let end = timedOut ? "did not end in time" : signal != 0 ? "died of signal \(signal)" : "exit status \(status)"
            return output.isEmpty ? end : end + ": " + output.trimmed
        }
    }

    let program: String, arguments: [String], folder: String
    var environment: [String: String] = [:]
    /// Opened for reading and writing as descriptor 9.
    var inherited: String?

    init(_ program: String, _ arguments: [String], in folder: String, environment: [String: String] = [:]) {
        self.program = program
        self.arguments = arguments
        self.folder = folder
        self.environment = environment
    }

    private func start(output: FileHandle) throws -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: inherited == nil ? program : "/bin/bash")
        process.arguments = arguments
        if let inherited {
            process.arguments = ["-c", "exec 9<>\"$0\" && exec \"$@\"", inherited, program] + arguments
        }
        process.currentDirectoryURL = URL(fileURLWithPath: folder)
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = output
        process.standardError = output
        try process.run()
        return process
    }

    /// - Parameter killAfter: SIGKILL after that many seconds: a trial of what survives, no time-out.
    func run(within seconds: Double = 30, killAfter: Double? = nil) throws -> Result {
        let path = NSTemporaryDirectory() + "/stasis-output-\(UUID().uuidString)"
        _ = FileManager.default.createFile(atPath: path, contents: nil)
        defer { try? FileManager.default.removeItem(atPath: path) }
        guard let output = FileHandle(forWritingAtPath: path) else { throw Failure("can't write \(path)") }
        let process = try start(output: output)
        let begin = Date()
        var timedOut = false
        if let killAfter {
            usleep(UInt32(killAfter * 1e6))
            if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        }
        while process.isRunning {
            if Date().timeIntervalSince(begin) > seconds + 5 { throw Failure("\(program) has left somebody who holds its descriptors") }
            if Date().timeIntervalSince(begin) > seconds && !timedOut {
                timedOut = true
                kill(process.processIdentifier, SIGKILL)
            }
            usleep(500)
        }
        process.waitUntilExit()
        let bySignal = process.terminationReason == .uncaughtSignal
        return Result(
            status: bySignal ? 128 : process.terminationStatus, signal: bySignal ? process.terminationStatus : 0,
            timedOut: timedOut, output: String.contents(of: path) ?? "")
    }
}
