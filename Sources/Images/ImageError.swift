import Glibc
public import Linux

/// What is wrong with an image, and where. Reads "core-42.img, entry 0, field tc.sigactions: it has 61 entries, 62 are needed".
public struct ImageError: Error, Equatable, CustomStringConvertible, Sendable {
    public let file: String
    /// Counted from 0; nil when the whole file is meant.
    public let entry: Int?
    /// Path of the field inside the entry, in the names of the .proto files.
    public let field: String?
    /// Where in the file, in bytes.
    public let offset: UInt64?
    public let cause: String
    /// What the user can do about it.
    public let remedy: String?
    /// Set when a system call failed; ENOENT says that the image is missing.
    public let errno: Errno?

    public init(_ file: String, entry: Int? = nil, field: String? = nil, offset: UInt64? = nil, _ cause: String, remedy: String? = nil, errno: Errno? = nil) {
        (self.file, self.entry, self.field, self.offset) = (file, entry, field, offset)
        (self.cause, self.remedy, self.errno) = (cause, remedy, errno)
    }

    /// A failed system call on an image.
    init(_ file: String, _ problem: String, _ error: SyscallError) {
        let remedy: String? = switch error.errno.rawValue {
        case ENOSPC, EDQUOT: "free space there, or choose another images directory (-D)"
        case EACCES, EPERM: "check the rights of the images directory, or run as root"
        default: nil
        }
        self.init(file, error.errno.rawValue == ENOENT ? "it is missing" : "\(problem): \(error.errno)", remedy: remedy, errno: error.errno)
    }

    public var isMissing: Bool { errno?.rawValue == ENOENT }

    public var description: String {
        "\(file)" + (entry.map { ", entry \($0)" } ?? "") + (field.map { ", field \($0)" } ?? "") + (offset.map { ", at byte \($0)" } ?? "")
            + ": \(cause)" + (remedy.map { "\n  try: \($0)" } ?? "")
    }
}
