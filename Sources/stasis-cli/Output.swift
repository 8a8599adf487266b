import Checkpoint
import Glibc
import Linux

/// Text to standard output and error, at once.
enum Output {
    static func line(_ text: String) { write(text + "\n", to: STDOUT_FILENO) }
    static func text(_ text: String) { write(text, to: STDOUT_FILENO) }
    static func error(_ text: String) { write(text, to: STDERR_FILENO) }

    private static func write(_ text: String, to descriptor: Int32) {
        // A duplicate, because a FileDescriptor closes what it owns. Output that nobody can receive is nobody's loss.
        let copy = dup(descriptor)
        if copy >= 0 { try? FileDescriptor(owning: copy).write(Array(text.utf8)) }
    }
}

extension Progress {
    /// On standard error, if that is a terminal.
    static func onTerminal() -> Progress {
        let show: (String) -> Void = { Output.error($0) }
        return Progress(clock: { Clock.coarse() }, show: isatty(STDERR_FILENO) == 1 ? show : nil)
    }
}
