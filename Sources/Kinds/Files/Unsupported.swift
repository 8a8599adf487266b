import Glibc
import Linux

/// Files that no image can hold, with the reason in words and what to do.
package enum Unsupported {
    /// Nil for a file of which nothing in particular is known.
    package static func reason(_ file: OpenFile) -> CheckpointError? {
        guard file.link.hasPrefix("anon_inode:") || file.link.hasPrefix("/secretmem") else { return nil }
        func refuse(_ cause: String, _ remedy: String? = "close it in the program before the dump") -> CheckpointError {
            CheckpointError("dump", file.subject, cause, remedy: remedy)
        }
        switch file.link {
        case "anon_inode:bpf-prog", "anon_inode:bpf_link", "anon_inode:btf", "anon_inode:bpf_link_info":
            return refuse("it is a BPF program or its attachment, which the kernel does not give out")
        case "anon_inode:[perf_event]": return refuse("it is a counter of perf_event_open(2), whose state is in the hardware")
        case "anon_inode:[userfaultfd]": return refuse("it is a userfaultfd: page faults of the process wait for whoever reads it")
        case "/secretmem (deleted)", "/secretmem": return refuse("it is secret memory (memfd_secret(2)), which nobody but the process may read")
        case "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0": return refuse("it is a virtual machine of KVM")
        case "anon_inode:[landlock-ruleset]": return refuse("it is a Landlock ruleset that is not in force yet, which the kernel does not give out")
        case "anon_inode:[seccomp]", "anon_inode:seccomp notify": return refuse("it is a supervisor's end of a seccomp filter (SECCOMP_RET_USER_NOTIF)")
        case "anon_inode:[fscontext]", "anon_inode:[mountfd]": return refuse("it is a mount that is being made (fsopen(2))")
        default: break
        }
        if file.link.hasPrefix("anon_inode:kvm") { return refuse("it belongs to a virtual machine of KVM") }
        return nil
    }

    /// A character device whose driver keeps state for each opening: opened again it would not be the same. Memory devices (null, zero,
    /// random ..., major 1) keep none.
    package static func device(_ file: OpenFile, _ plugins: PluginSet) -> CheckpointError? {
        let number = FileStatus.kernelDevice(file.status.rdev), major = number >> 20, minor = number & 0xfffff
        guard file.status.type == S_IFCHR, major != 1, file.flags & OpenFlags.path == 0 else { return nil }
        let plugin: String? = file.link.hasPrefix("/dev/nvidia") ? "cuda_plugin" : file.link == "/dev/kfd" ? "amdgpu_plugin" : nil
        let remedy = plugin.flatMap(plugins.remedy)
            ?? "close it in the program before the dump, or pass it from outside: --external 'file[MNT:INODE]' with mnt_id of its fdinfo and its inode, in hexadecimal"
        return CheckpointError("dump", file.subject, "its driver (character device \(major):\(minor)) keeps state that can't be saved", remedy: remedy)
    }
}
