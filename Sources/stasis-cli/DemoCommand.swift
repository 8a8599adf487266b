import CLinux
import Checkpoint
import Glibc
import Linux
import Options

/// `stasis demo`: a small program counts on the screen, is dumped, is gone, is restored and goes on counting from where it stood.
enum DemoCommand {
    static func run() -> Int32 {
        do {
            return try Demo().run()
        } catch {
            return Failure(error).report(json: false, command: .demo, log: Log())
        }
    }
}

private struct DemoError: Error, CustomStringConvertible {
    let description: String
}

/// One showing. Everything it makes is gone at the end.
private final class Demo {
    private let stasis: String
    private let directory: String
    private var images: String { directory + "/images" }
    private var screen: String { directory + "/output" }
    private var counter: ThreadID?
    /// How much of the counter's output was shown, in bytes.
    private var shown = 0
    private var lastNumber = 0

    init() throws {
        stasis = try Files.link("/proc/self/exe")
        directory = "/tmp/stasis-demo-\(getpid())"
        try Self.make(directory)
        try Self.make(directory + "/images")
    }

    func run() throws -> Int32 {
        defer { cleanUp() }
        // The restored counter becomes our child when `stasis restore` has left, so that we can end it without leaving a zombie.
        try Syscall.call("prctl(PR_SET_CHILD_SUBREAPER)", SYS_prctl, 36, 1)

        let output = try FileDescriptor.open(screen, O_WRONLY | O_CREAT | O_TRUNC)
        let counter = try Program.start(stasis, ["count"], output: output, inNewSession: true)
        self.counter = counter
        Output.line("A program that counts runs as process \(counter):")
        try show(milliseconds: 1500)
        guard lastNumber > 0 else { throw DemoError(description: "the program does not count") }

        let dumping = try stasis("dump", "-t", "\(counter)", "-D", images)
        let end = try Program.wait(for: counter)
        guard case .killed = end else { throw DemoError(description: "the program was not ended by the dump: \(end)") }
        try show(milliseconds: 0)
        Output.line("  dumped in \(dumping)")
        let before = lastNumber
        Output.line("\nProcess \(counter) is gone; it stood at \(before). What is left of it:")
        try listImages()
        usleep(1_000_000)

        let restoring = try stasis("restore", "-d", "-D", images)
        Output.line("  restored in \(restoring)\n\nProcess \(counter) runs again and goes on from \(before):")
        try show(milliseconds: 1500)
        guard lastNumber > before else { throw DemoError(description: "the restored program does not count") }
        Output.line("\nFrom \(before) to \(lastNumber), without a number lost or said twice.")
        return 0
    }

    /// Runs a command of ours as anybody would. Answers how long it took.
    private func stasis(_ arguments: String...) throws -> String {
        Output.line("\n$ stasis " + arguments.joined(separator: " "))
        let began = Clock.monotonic()
        let end = try Program.wait(for: Program.start(stasis, arguments))
        guard end == .exited(0) else { throw DemoError(description: "stasis \(arguments[0]) failed: \(end)") }
        return Quantity.microseconds((Clock.monotonic() - began) / 1000)
    }

    /// Copies to the screen what the counter writes in that time, and checks that each number follows the one before.
    private func show(milliseconds: UInt64) throws {
        let until = Clock.monotonic() + milliseconds * 1_000_000
        repeat {
            if milliseconds > 0 { usleep(30_000) }
            let bytes = try FileDescriptor.open(screen, O_RDONLY).read(65536, at: shown)
            guard let end = bytes.lastIndex(of: UInt8(ascii: "\n")) else { continue }
            shown += end + 1
            for line in String(decoding: bytes[..<end], as: UTF8.self).split(separator: "\n") {
                guard let number = Int(line), number == lastNumber + 1 else {
                    throw DemoError(description: "\"\(line)\" does not follow \(lastNumber)")
                }
                lastNumber = number
                Output.line("  \(number)")
            }
        } while Clock.monotonic() < until
    }

    private func listImages() throws {
        var total: UInt64 = 0
        for name in try Files.names(in: images).sorted() {
            let size = UInt64(try Files.status(images + "/" + name).size)
            total += size
            Output.line("  \(name)\(String(repeating: " ", count: max(1, 22 - name.utf8.count)))\(Quantity.bytes(size))")
        }
        Output.line("  in all\(String(repeating: " ", count: 16))\(Quantity.bytes(total))")
    }

    private func cleanUp() {
        if let counter {
            kill(counter.rawValue, SIGKILL)
            _ = try? Program.wait(for: counter)
        }
        for name in (try? Files.names(in: images)) ?? [] { try? Files.unlink(images + "/" + name) }
        try? Files.unlink(screen)
        try? Files.unlink(images, flags: 0x200)  // AT_REMOVEDIR
        try? Files.unlink(directory, flags: 0x200)
    }

    private static func make(_ path: String) throws(SyscallError) {
        try Syscall.call("mkdir", SYS_mkdir, path: path, at: 0, 0o700)
    }
}
