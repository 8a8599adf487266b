import Glibc
import ImageMessages
import Linux

/// The machine's GPUs and CPUs and the links between them, as amdkfd shows them (/sys/class/kfd/kfd/topology, kfd_topology.c) and the images keep them. Nodes in
/// the order of their numbers; a node whose gpu_id is 0 is one of CPUs.
struct GPUTopology: Equatable {
    static let place = "/sys/class/kfd/kfd/topology/nodes"
    var nodes: [KfdDeviceEntry]

    var gpus: [KfdDeviceEntry] { nodes.filter(\.isGPU) }
    func gpu(_ id: UInt32) -> KfdDeviceEntry? { nodes.first { $0.isGPU && $0.gpuID == id } }
    func gpu(atMinor minor: UInt32) -> KfdDeviceEntry? { nodes.first { $0.isGPU && $0.drmRenderMinor == minor } }

    init(_ nodes: [KfdDeviceEntry]) { self.nodes = nodes.sorted { $0.nodeID < $1.nodeID } }

    /// - Parameter place: a folder like /sys/class/kfd/kfd/topology/nodes. A GPU that a cgroup keeps from us (its files can't be read, EPERM) is left out.
    init(reading place: String = GPUTopology.place) throws(SyscallError) {
        var found = [KfdDeviceEntry]()
        for name in try Files.names(in: place) {
            guard let number = UInt32(name), let id = try Self.text("\(place)/\(name)/gpu_id") else { continue }
            func properties(of folder: String) throws(SyscallError) -> [String] {
                var texts = [String]()
                for part in (try? Files.names(in: "\(place)/\(name)/\(folder)")) ?? [] where UInt32(part) != nil {
                    if let text = try Self.text("\(place)/\(name)/\(folder)/\(part)/properties") { texts.append(text) }
                }
                return texts
            }
            found.append(Self.node(number, gpuID: id, try Self.text("\(place)/\(name)/properties") ?? "", banks: try properties(of: "mem_banks"), links: try properties(of: "io_links")))
        }
        self.init(found)
    }
    private static func text(_ path: String) throws(SyscallError) -> String? {
        do throws(SyscallError) { return try Files.text(path) } catch {
            if error.errno == Errno(EPERM) { return nil }
            throw error
        }
    }

    /// One node from the texts of its files: lines of a name and a number.
    static func node(_ number: UInt32, gpuID: String, _ properties: String, banks: [String], links: [String]) -> KfdDeviceEntry {
        let values = numbers(properties)
        var node = KfdDeviceEntry()
        (node.nodeID, node.gpuID) = (number, UInt32(gpuID.prefix { $0.isNumber }) ?? 0)
        // Of CPUs CRIU has the number of cores, and the links.
        for (name, field) in fields { node[keyPath: field] = node.isGPU || field == \.cpuCoresCount ? UInt32(truncatingIfNeeded: values[name] ?? 0) : 0 }
        node.hiveID = values["hive_id"] ?? 0
        (node.vramPublic, node.vramSize) = (0, 0)
        for bank in banks.map(numbers) where node.isGPU {
            // HSA_MEM_HEAP_TYPE_FB_PUBLIC: all of it can be reached by the CPU; .._FB_PRIVATE
            guard let heap = bank["heap_type"], heap == 1 || heap == 2 else { continue }
            node.vramPublic = heap == 1 ? 1 : 0
            node.vramSize += bank["size_in_bytes"] ?? 0
        }
        node.iolinks = links.map(numbers).map { link in
            var entry = DevIolink()
            (entry.type, entry.nodeToID) = (UInt32(truncatingIfNeeded: link["type"] ?? 0), UInt32(truncatingIfNeeded: link["node_to"] ?? 0))
            return entry
        }.sorted { $0.nodeToID < $1.nodeToID }
        return node
    }
    private static func numbers(_ text: String) -> [String: UInt64] {
        text.split(separator: "\n").reduce(into: [:]) { found, line in
            let words = line.split(separator: " ")
            if words.count == 2, let value = UInt64(words[1]) { found[String(words[0])] = value }
        }
    }

    /// Lines of `properties` and the images' fields of the same names.
    private static var fields: [(String, WritableKeyPath<KfdDeviceEntry, UInt32>)] { [
        ("cpu_cores_count", \.cpuCoresCount), ("simd_count", \.simdCount), ("mem_banks_count", \.memBanksCount), ("caches_count", \.cachesCount), ("io_links_count", \.ioLinksCount),
        ("max_waves_per_simd", \.maxWavesPerSimd), ("lds_size_in_kb", \.ldsSizeInKb), ("gds_size_in_kb", \.gdsSizeInKb), ("num_gws", \.numGws),
        ("wave_front_size", \.waveFrontSize), ("array_count", \.arrayCount), ("simd_arrays_per_engine", \.simdArraysPerEngine), ("cu_per_simd_array", \.cuPerSimdArray),
        ("simd_per_cu", \.simdPerCu), ("max_slots_scratch_cu", \.maxSlotsScratchCu), ("vendor_id", \.vendorID), ("device_id", \.deviceID), ("domain", \.domain),
        ("drm_render_minor", \.drmRenderMinor), ("num_sdma_engines", \.numSdmaEngines), ("num_sdma_xgmi_engines", \.numSdmaXgmiEngines),
        ("num_sdma_queues_per_engine", \.numSdmaQueuesPerEngine), ("num_cp_queues", \.numCpQueues), ("fw_version", \.fwVersion), ("capability", \.capability),
        ("sdma_fw_version", \.sdmaFwVersion),
    ] }
}

extension KfdDeviceEntry { var isGPU: Bool { gpuID != 0 } }
