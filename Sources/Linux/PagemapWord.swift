public import CLinux
import Glibc

/// What /proc/PID/pagemap says of a page (Documentation/admin-guide/mm/pagemap.rst).
public struct PagemapWord: OptionSet, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public static let present = Self(rawValue: 1 << 63), swapped = Self(rawValue: 1 << 62), ofFile = Self(rawValue: 1 << 61), softDirty = Self(rawValue: 1 << 55)

    /// Number of the page frame; nil for a page that isn't there, and without CAP_SYS_ADMIN.
    public var frame: UInt64? {
        let number = rawValue & (1 << 55 - 1)
        return contains(.present) && number != 0 ? number : nil
    }

    /// Whether the page holds something of the process's own: neither a file's, nor the one page of zeros that all see where they have only read.
    public var isOwn: Bool {
        (contains(.present) || contains(.swapped)) && !contains(.ofFile) && (frame == nil || frame != Self.zeroFrame)
    }

    private static let zeroFrame: UInt64? = {
        guard let page = FreshPage() else { return nil }
        page.read()
        return page.word?.frame
    }()
}

extension FileDescriptor {
    /// ioctl(PAGEMAP_SCAN) on a /proc/PID/pagemap: as many regions as there is room for. Answers how many; `request.walk_end` says where it stopped.
    public func scanPages(_ request: inout clinux_pm_scan_arg, into regions: inout [clinux_page_region], of process: ThreadID) throws(SyscallError) -> Int {
        let number = self.number
        return try Syscall.check("ioctl(PAGEMAP_SCAN)", .task(process)) {
            unsafe regions.withUnsafeMutableBufferPointer { buffer in
                (request.vec, request.vec_len) = (UInt64(UInt(bitPattern: buffer.baseAddress)), UInt64(buffer.count))
                return unsafe withUnsafeMutablePointer(to: &request) { unsafe Syscall.raw(SYS_ioctl, Int(number), Int(CLINUX_PAGEMAP_SCAN), Int(bitPattern: $0)) }
            }
        }
    }
}

/// An anonymous page of our own that nobody has touched yet, and how the kernel sees it.
struct FreshPage: ~Copyable {
    private let address: Int

    init?() {
        address = unsafe Syscall.raw(SYS_mmap, 0, 4096, Int(PROT_READ | PROT_WRITE), Int(MAP_PRIVATE | MAP_ANONYMOUS), -1, 0)
        if address < 0 { return nil }
    }
    deinit { _ = unsafe Syscall.raw(SYS_munmap, address, 4096) }

    /// The kernel reads an empty name there.
    func read() { _ = unsafe Syscall.raw(SYS_access, address, 0) }
    /// The kernel writes the time there.
    func write() { _ = unsafe Syscall.raw(SYS_clock_gettime, Int(CLOCK_REALTIME), address) }

    var word: PagemapWord? {
        guard let file = try? FileDescriptor.open("/proc/self/pagemap", O_RDONLY), let bytes = try? file.read(8, at: address / 4096 * 8), bytes.count == 8 else { return nil }
        return PagemapWord(rawValue: bytes.word(at: 0))
    }
}
