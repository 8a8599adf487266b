import Glibc
import Linux
import Options

/// What a user without root needs to say and to have (criu(8), NON-ROOT).
enum Privileges {
    static func check(_ options: Options) throws(OptionError) {
        guard getuid() == geteuid() else {
            throw .usage("the program is set-user-id: whoever starts it could save, and restore, everybody's programs", try: "chmod u-s it, and setcap cap_checkpoint_restore+eip for --unprivileged")
        }
        // Who may read images may look at them.
        guard geteuid() != 0, options.command != .verify else { return }
        guard options.unprivileged else {
            throw .usage("not run by root", try: "run as root, or give --unprivileged to accept what is not possible without")
        }
        let checkpointRestore: UInt64 = 1 << 40, sysAdmin: UInt64 = 1 << 21  // linux/capability.h
        guard effectiveCapabilities() & (checkpointRestore | sysAdmin) != 0 else {
            throw .usage(
                "--unprivileged needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN", try: "setcap cap_checkpoint_restore+eip on the stasis program")
        }
    }

    /// The line CapEff of /proc/self/status, proc_pid_status(5).
    private static func effectiveCapabilities() -> UInt64 {
        guard let file = try? FileDescriptor.open("/proc/self/status", O_RDONLY), let bytes = try? file.readAll() else { return 0 }
        let line = String(decoding: bytes, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        return line.flatMap { $0.split(separator: "\t").last }.flatMap { UInt64($0, radix: 16) } ?? 0
    }
}
