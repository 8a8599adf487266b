import Glibc
import Synchronization

/// Where the steps of a dump or restore say what they do. It is passed along as a parameter; nothing is global.
///
/// The lines look like CRIU's, because people and programs search them ("Error (" finds the errors):
///
///     (00.001203) task 4711: 12 mappings
///     (00.012345) Error (Checkpoint/Freeze.swift:40): cannot seize task 4711: Operation not permitted (EPERM)
///
/// Every line is one write(2), so nothing is lost when the process is killed and lines of two writers never mix.
package struct Log: Sendable {
    /// What `-v` chooses: 0 nothing, 1 errors, 2 warnings (the default), 3 what is done, with times, 4 everything.
    package enum Level: Int, Comparable, Sendable, CaseIterable {
        case silent, error, warning, info, debug

        /// `-v7` is the same as `-v4`.
        package init(verbosity: Int) { self = Level(rawValue: min(max(verbosity, 0), Level.debug.rawValue)) ?? .warning }

        package static func < (left: Level, right: Level) -> Bool { left.rawValue < right.rawValue }
    }

    private let sink: Sink
    private let subject: String

    /// - Parameter descriptor: where lines go; closed with the last copy of this log, except for standard error.
    package init(level: Level = .warning, to descriptor: Int32 = STDERR_FILENO) {
        sink = Sink(level: level, descriptor: descriptor)
        subject = ""
    }

    private init(sink: Sink, subject: String) {
        self.sink = sink
        self.subject = subject
    }

    package var level: Level { sink.level }

    /// Whether lines go to standard error rather than to a file (`-o`).
    package var isOnStandardError: Bool { sink.descriptor == STDERR_FILENO }

    /// The text of the first error that was logged, also when the level kept it from being written: what an RPC
    /// answer calls `cr_errmsg`.
    package var firstError: String? { sink.firstError.withLock { $0 } }

    /// The same log, with `subject` in front of every line: `log.about("task 4711").info("12 mappings")`.
    package func about(_ subject: String) -> Log { Log(sink: sink, subject: self.subject + subject + ": ") }

    package func error(_ text: @autoclosure () -> String, file: StaticString = #fileID, line: UInt = #line) {
        let text = subject + text()
        sink.firstError.withLock { $0 = $0 ?? text }
        guard level >= .error else { return }
        sink.write("Error (\(file):\(line)): \(text)")
    }

    package func warn(_ text: @autoclosure () -> String, file: StaticString = #fileID, line: UInt = #line) {
        guard level >= .warning else { return }
        sink.write("Warn  (\(file):\(line)): \(subject)\(text())")
    }

    package func info(_ text: @autoclosure () -> String) {
        guard level >= .info else { return }
        sink.write("\(subject)\(text())")
    }

    package func debug(_ text: @autoclosure () -> String) {
        guard level >= .debug else { return }
        sink.write("\(subject)\(text())")
    }
}

/// The one place all copies of a log write to.
private final class Sink: Sendable {
    let level: Log.Level
    let descriptor: Int32
    let firstError = Mutex<String?>(nil)
    private let start = Clock.monotonic()

    init(level: Log.Level, descriptor: Int32) {
        self.level = level
        self.descriptor = descriptor
    }

    /// CRIU shows times from level 3 on; below it lines begin with "Error (" or "Warn  (".
    func write(_ text: String) {
        var line = (level >= .info ? stamp() : "") + text + "\n"
        line.withUTF8 { bytes in
            var rest = unsafe bytes
            while !rest.isEmpty {
                let taken = unsafe Glibc.write(descriptor, rest.baseAddress, rest.count)
                if taken < 0 && Glibc.errno == EINTR { continue }
                guard taken > 0 else { return }  // a log that can't be written must not fail a dump
                unsafe rest = UnsafeBufferPointer(rebasing: rest.dropFirst(taken))
            }
        }
    }

    /// "(00.012345) ": seconds and microseconds since the log was opened.
    private func stamp() -> String {
        let microseconds = (Clock.monotonic() - start) / 1000
        let fraction = String(microseconds % 1_000_000)
        let seconds = String(microseconds / 1_000_000)
        return "(" + String(repeating: "0", count: max(0, 2 - seconds.count)) + seconds + "."
            + String(repeating: "0", count: 6 - fraction.count) + fraction + ") "
    }

    deinit { if descriptor != STDERR_FILENO { close(descriptor) } }
}
