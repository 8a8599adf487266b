/// What a check has found, in the order it was found. Enough is enough: a damaged image may contradict everything.
struct Findings {
    static let limit = 200
    private(set) var errors: [ImageError] = []

    mutating func add(_ error: ImageError) { if errors.count < Self.limit { errors.append(error) } }

    /// Runs a check that throws, and keeps what it throws.
    mutating func note(_ check: () throws(ImageError) -> Void) {
        do throws(ImageError) { try check() } catch { add(error) }
    }
}

/// The entry that is being checked: findings about its fields get their place from here.
struct Place {
    let file: String
    let entry: Int?
    /// Path before the fields' names, "thread_core.": made only for a finding, as there are many places and few findings.
    private let prefix: () -> String

    init(file: String, entry: Int?, prefix: @escaping () -> String = { "" }) { (self.file, self.entry, self.prefix) = (file, entry, prefix) }

    func inside(_ field: @escaping @autoclosure () -> String) -> Place {
        Place(file: file, entry: entry) { [prefix] in "\(prefix())\(field())." }
    }

    /// Notes that `field` is wrong unless `condition` holds.
    func expect(_ condition: Bool, _ field: @autoclosure () -> String, _ problem: @autoclosure () -> String, _ findings: inout Findings) {
        if !condition { findings.add(ImageError(file, entry: entry, field: prefix() + field(), problem())) }
    }

    /// A text that ends up in a system call: no NUL inside, not longer than the kernel takes.
    func text(_ value: String, upTo limit: Int, _ field: @autoclosure () -> String, _ findings: inout Findings) {
        let bytes = value.utf8
        expect(bytes.count <= limit, field(), "it has \(bytes.count) bytes, \(limit) are the most", &findings)
        expect(!bytes.contains(0), field(), "it has a NUL byte inside", &findings)
    }

    func process(_ value: UInt32, orNone: Bool = false, _ field: @autoclosure () -> String, _ findings: inout Findings) {
        expect(value <= Limits.pid && (value > 0 || orNone), field(), "\(value) is no process id", &findings)
    }

    func signal(_ value: UInt32, orNone: Bool = false, _ field: @autoclosure () -> String, _ findings: inout Findings) {
        expect(value <= 64 && (value > 0 || orNone), field(), "\(value) is no signal", &findings)
    }
}

/// The kernel's limits that images are held against.
enum Limits {
    /// PID_MAX_LIMIT (include/linux/threads.h).
    static let pid: UInt32 = 4 << 20
    /// Highest descriptor number: sysctl_nr_open_max (fs/file.c) on 64 bits.
    static let descriptor: UInt32 = 0x7fff_ffc0
    /// PATH_MAX without its NUL.
    static let path = 4095
    /// TASK_COMM_LEN without its NUL.
    static let comm = 15
    /// NGROUPS_MAX (include/uapi/linux/limits.h).
    static let groups = 65536
    /// BPF_MAXINSNS (include/uapi/linux/bpf_common.h), of 8 bytes.
    static let filterBytes = 4096 * 8
    /// sizeof(sun_path) (unix(7)).
    static let unixName = 108
}

func hex(_ value: some BinaryInteger) -> String { "0x" + String(value, radix: 16) }
