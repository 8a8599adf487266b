/// Linux security modules that give tasks labels (Documentation/admin-guide/LSM).
public enum SecurityModule: String, CaseIterable, Sendable {
    case appArmor = "apparmor", selinux = "selinux"

    public var name: String { self == .appArmor ? "AppArmor" : "SELinux" }

    /// Whether this kernel enforces its rules, or could: it is compiled in and was not turned off at boot.
    public var isActive: Bool {
        switch self {
        case .appArmor: (try? Files.text("/sys/module/apparmor/parameters/enabled"))?.hasPrefix("Y") == true
        case .selinux: (try? Files.text("/proc/filesystems"))?.contains("selinuxfs") == true
        }
    }
}
