package import Images
package import Linux

/// What could not be done, on which object, why, and what to do about it.
///
///     cannot dump fd 7 (/run/q.sock) of task 4711: its peer, socket 89121, is outside the tree
///       try: dump from a common parent of both, or name it with --external unix[89121]
package struct CheckpointError: Error, CustomStringConvertible, Sendable {
    package enum Subject: Equatable, Sendable, CustomStringConvertible {
        case task(ThreadID), descriptor(Int32, path: String, of: ThreadID), mapping(Range<UInt64>, name: String, of: ThreadID)
        case image(String), file(String), object(String)
        package var description: String {
            switch self {
            case .task(let id): "task \(id)"
            case .descriptor(let number, let path, let task): "fd \(number) (\(path)) of task \(task)"
            case .mapping(let range, let name, let task):
                "mapping \(String(range.lowerBound, radix: 16))-\(String(range.upperBound, radix: 16))\(name.isEmpty ? "" : " (\(name))") of task \(task)"
            case .image(let name): "image \(name)"
            case .file(let path): "file \(path)"
            case .object(let what): what
            }
        }
    }
    /// The verb: "dump", "restore", "freeze" ...
    package let action: String
    package let subject: Subject
    /// The first cause, in words or as the error below.
    package let cause: String
    package let remedy: String?
    /// The option with which it would work: "--file-locks", "--ghost-limit 2097152". `explain` makes a command line of them.
    package let option: String?
    /// The system call's error number, where one was the cause.
    package let errno: Errno?

    package init(_ action: String, _ subject: Subject, _ cause: String, remedy: String? = nil, option: String? = nil, errno: Errno? = nil) {
        (self.action, self.subject, self.cause, self.remedy, self.option, self.errno) = (action, subject, cause, remedy, option, errno)
    }
    /// About an image, in the words of what was found wrong with it.
    package init(_ action: String, _ error: ImageError) { self.init(action, .image(error.file), error.cause, remedy: error.remedy, errno: error.errno) }

    package var description: String { "cannot \(action) \(subject): \(cause)" + (remedy.map { "\n  try: \($0)" } ?? "") }

    /// Runs `body`; an error that is not a CheckpointError yet gets its subject here, where it is known.
    package static func about<Value>(_ action: String, _ subject: @autoclosure () -> Subject, remedy: String? = nil, _ body: () throws -> Value) throws -> Value {
        do { return try body() }
        catch let error as CheckpointError { throw error }
        catch let error as SyscallError { throw CheckpointError(action, subject(), "\(error)", remedy: remedy, errno: error.errno) }
        catch { throw CheckpointError(action, subject(), "\(error)", remedy: (error as? any RemediableError)?.remedy ?? remedy) }
    }
}
