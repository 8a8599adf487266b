import CLinux
import Glibc

/// Whether this kernel, and our rights, offer what a dump or restore may need: each probe tries the thing itself where that is
/// possible without side effects, on ourselves, on a child of its own, or with arguments that can only be refused.
public enum KernelProbe {
    // MARK: files of proc(5)

    public static func exists(_ path: String) -> Bool { (try? Files.status(path)) != nil }

    public static func hasFilesystem(_ name: String) -> Bool {
        ((try? Files.text("/proc/filesystems")) ?? "").split(separator: "\n").contains { $0.split(separator: "\t").last.map(String.init) == name }
    }

    /// Whether the line `field` is in our fdinfo of `file` (fs/proc/fd.c, show_fdinfo callbacks of the kinds).
    public static func fdinfo(of file: FileDescriptor?, has field: String) -> Bool {
        guard let file else { return false }
        return ((try? Files.text("/proc/self/fdinfo/\(file.number)")) ?? "").split(separator: "\n").contains { $0.hasPrefix(field) }
    }

    public static var mountID: Bool { fdinfo(of: try? FileDescriptor.open("/", O_RDONLY | O_DIRECTORY), has: "mnt_id:") }

    public static var timerDetails: Bool { fdinfo(of: owned(unsafe Syscall.raw(SYS_timerfd_create, 1, 0o2000000)), has: "clockid:") }

    public static var lockDetails: Bool {
        guard let file = try? FileDescriptor.memory("probe") else { return false }
        guard (try? Syscall.call("flock", SYS_flock, Int(file.number), Int(LOCK_EX))) != nil else { return false }
        return fdinfo(of: file, has: "lock:")
    }

    public static var namespacePids: Bool { ((try? Files.text("/proc/self/status")) ?? "").contains("\nNSpid:") }

    /// Links of /proc/self/map_files can be read: CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
    public static var mapFiles: Bool {
        guard let name = try? Files.names(in: "/proc/self/map_files").first else { return false }
        return (try? Files.link("/proc/self/map_files/" + name)) != nil
    }

    /// At least that release of Linux, for what can't be tried without side effects.
    public static func isRelease(atLeast major: Int, _ minor: Int) -> Bool {
        let numbers = ((try? Files.text("/proc/sys/kernel/osrelease")) ?? "").split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        return numbers.count == 2 && (numbers[0], numbers[1]) >= (major, minor)
    }

    // MARK: memory

    /// Documentation/admin-guide/mm/soft-dirty.rst: after "4" in clear_refs, bit 55 of a page's pagemap word says it was written.
    public static var softDirty: Bool {
        guard let page = FreshPage() else { return false }
        page.write()
        guard (try? FileDescriptor.open("/proc/self/clear_refs", O_WRONLY).write(Array("4".utf8))) != nil, page.word?.contains(.softDirty) == false else { return false }
        page.write()
        return page.word?.contains(.softDirty) == true
    }

    /// Write protection that the kernel takes away by itself (UFFD_FEATURE_WP_ASYNC and what it needs, 6.7), and the scan that tells.
    public static var tracksByProtection: Bool { userfault(features: 0b1011 << 12) && pagemapScan() }

    /// ioctl(PAGEMAP_SCAN) with these page categories (linux/fs.h; guard regions since 6.15).
    public static func pagemapScan(categories: UInt64 = 2) -> Bool {
        guard let file = try? FileDescriptor.open("/proc/self/pagemap", O_RDONLY) else { return false }
        var argument = clinux_pm_scan_arg()
        argument.size = UInt64(MemoryLayout<clinux_pm_scan_arg>.size)
        argument.category_mask = categories
        argument.return_mask = categories
        return (try? file.ioctl("PAGEMAP_SCAN", 0xc060_6610, &argument)) != nil
    }
    public static var guardPages: Bool { pagemapScan(categories: 1 << 8) }

    /// userfaultfd(2), with these features (UFFDIO_API).
    public static func userfault(features wanted: UInt64 = 0) -> Bool {
        guard let file = owned(unsafe Syscall.raw(SYS_userfaultfd, 0o2000000)) else { return false }
        var argument: (api: UInt64, features: UInt64, ioctls: UInt64) = (0xaa, 0, 0)
        return (try? file.ioctl("UFFDIO_API", 0xc018_aa3f, &argument)) != nil && argument.features & wanted == wanted
    }

    /// madvise(2) looks at the advice before it finds that no byte is meant.
    public static func knows(advice: Int) -> Bool { unsafe Syscall.raw(SYS_madvise, 0, 0, advice) == 0 }

    public static var hugeMemfd: Bool { (try? FileDescriptor.memory("probe", flags: 4)) != nil }

    public static var asynchronousIO: Bool {
        var context: UInt = 0
        guard (try? Syscall.call("io_setup", SYS_io_setup, value: &context, at: 1, 1)) != nil else { return false }
        return (try? Syscall.call("io_destroy", SYS_io_destroy, Int(context))) != nil
    }

    /// arch_prctl(ARCH_MAP_VDSO_*): where the vDSO is mapped already the kernel that can map it says EEXIST (arch/x86/kernel/process_64.c).
    public static func mapsVdso(_ code: Int) -> Bool { unsafe Syscall.raw(SYS_arch_prctl, code, 0) == -Int(EEXIST) }

    // MARK: tasks

    /// clone3(2) with more ids than namespaces can nest is EINVAL where set_tid exists (5.5), E2BIG or ENOSYS before.
    public static var cloneWithIds: Bool {
        var arguments = clinux_clone_args()
        arguments.set_tid_size = 1000
        do throws(SyscallError) {
            try Syscall.call("clone3", SYS_clone3, value: &arguments, at: 0, MemoryLayout<clinux_clone_args>.size)
            preconditionFailure("clone3 took 1000 ids")
        } catch { return error.errno.rawValue == EINVAL }
    }

    public static var pidfds: Bool {
        guard let own = try? FileDescriptor.process(.current) else { return false }
        return (try? FileDescriptor.duplicate(own.number, ofProcess: own)) != nil
    }

    public static var compares: Bool {
        let pid = Int(getpid())
        return unsafe Syscall.raw(SYS_kcmp, pid, pid, 1, 0, 0) == 0  // KCMP_VM
    }

    /// prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE) tells the size of the structure.
    public static var memoryMapFields: Bool {
        var size: UInt32 = 0
        return (try? Syscall.call("prctl", SYS_prctl, value: &size, at: 2, 35, 15, 0, 0)) != nil && size > 0
    }

    /// prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET), 6.15.
    public static var timerIds: Bool { unsafe Syscall.raw(SYS_prctl, 77, 2) >= 0 }

    /// prctl(PR_GET_MDWE), 6.3.
    public static var denyWriteExecute: Bool { unsafe Syscall.raw(SYS_prctl, 66, 0, 0, 0, 0) >= 0 }

    public static var openat2: Bool { unsafe Syscall.raw(437, Int(AT_FDCWD), 0, 0, 0) == -Int(EINVAL) }

    /// move_mount(2) refuses flags it doesn't know (EINVAL) before it looks at the paths.
    public static var mountGroups: Bool {
        let paths: [UInt8] = [0]
        let result = unsafe paths.withUnsafeBytes {
            let path = Int(bitPattern: $0.baseAddress)
            return unsafe Syscall.raw(429, -1, path, -1, path, 0x100)
        }
        return result != -Int(EINVAL) && result != -Int(ENOSYS)
    }

    static func owned(_ result: Int) -> FileDescriptor? { result >= 0 ? FileDescriptor(owning: Int32(result)) : nil }
}
