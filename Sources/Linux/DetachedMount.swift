import CLinux
import Glibc

/// A file system mounted nowhere: reached through the descriptor, gone with it (fsopen(2), fsmount(2)).
public struct DetachedMount: Sendable {
    private let descriptor: FileDescriptor
    /// The path of its root directory, for this process.
    public var path: String { descriptor.procPath }

    public enum Option: Sendable { case flag(String), string(String, String) }

    public init(_ fileSystem: String, _ options: [Option]) throws(SyscallError) {
        let context = FileDescriptor(owning: Int32(try Syscall.call("fsopen", SYS_fsopen, path: fileSystem, at: 0, 1)))  // FSOPEN_CLOEXEC
        for option in options {
            switch option {
            case .flag(let key): try Self.configure(context, 0, key, nil)  // FSCONFIG_SET_FLAG
            case .string(let key, let value): try Self.configure(context, 1, key, value)  // FSCONFIG_SET_STRING
            }
        }
        try Self.configure(context, 6, nil, nil)  // FSCONFIG_CMD_CREATE
        descriptor = FileDescriptor(owning: Int32(try Syscall.call("fsmount", SYS_fsmount, Int(context.number), 1, 0)))  // FSMOUNT_CLOEXEC
    }

    /// A directory in memory, for as long as the value lives.
    public static func memory() throws(SyscallError) -> (mount: DetachedMount, root: FileDescriptor) {
        let mount = try DetachedMount("tmpfs", [.string("size", "100%"), .string("mode", "0700")])
        return (mount, try FileDescriptor.open(mount.path, O_RDONLY | O_DIRECTORY))
    }

    private static func configure(_ context: FileDescriptor, _ command: Int, _ key: String?, _ value: String?) throws(SyscallError) {
        let number = Int(context.number)
        try Syscall.check("fsconfig(\(key ?? "create")\(value.map { "=\($0)" } ?? ""))") {
            guard let key else { return unsafe Syscall.raw(SYS_fsconfig, number, command) }
            return unsafe key.withCString { key in
                guard let value else { return unsafe Syscall.raw(SYS_fsconfig, number, command, Int(bitPattern: key)) }
                return unsafe value.withCString { unsafe Syscall.raw(SYS_fsconfig, number, command, Int(bitPattern: key), Int(bitPattern: $0)) }
            }
        }
    }
}
