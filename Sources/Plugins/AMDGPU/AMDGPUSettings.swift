/// What CRIU's plugin reads from the environment (Documentation/criu-amdgpu-plugin.txt).
package struct AMDGPUSettings {
    var checks = GPUMatch.Checks.all
    /// Bytes of memory that contents go through at a time.
    var capacity = 32 << 20
    /// Variables that say nothing we know.
    private(set) var ignored: [String] = []

    package init(_ value: (String) -> String? = { _ in nil }) {
        let switches: [(String, GPUMatch.Checks)] = [
            ("KFD_FW_VER_CHECK", .firmware), ("KFD_SDMA_FW_VER_CHECK", .copyFirmware), ("KFD_CACHES_COUNT_CHECK", .caches), ("KFD_NUM_GWS_CHECK", .globalWaveSync),
            ("KFD_VRAM_SIZE_CHECK", .memorySize), ("KFD_NUMA_CHECK", .processors), ("KFD_CAPABILITY_CHECK", .capability),
        ]
        for (name, check) in switches {
            guard let text = value(name) else { continue }
            switch text.uppercased() {
            case "0", "N", "NO": checks.remove(check)
            case "1", "Y", "YES": break
            default: ignored.append("\(name)=\(text): YES, NO, 1 or 0 was expected")
            }
        }
        if let text = value("KFD_MAX_BUFFER_SIZE") {
            if let size = Self.size(text) { if size > 0 { capacity = min(capacity, size) } } else { ignored.append("KFD_MAX_BUFFER_SIZE=\(text): a number of bytes was expected, with K, M or G") }
        }
    }

    /// "4096", "512M".
    static func size(_ text: String) -> Int? {
        let digits = text.prefix { $0.isNumber }, shifts = ["": 0, "k": 10, "m": 20, "g": 30]
        guard let number = Int(digits), let shift = shifts[text.dropFirst(digits.count).lowercased()], number <= Int.max >> shift else { return nil }
        return number << shift
    }
}
