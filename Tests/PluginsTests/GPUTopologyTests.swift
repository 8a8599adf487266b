import Foundation
import ImageMessages
import Testing

@testable import Plugins

@Suite("topology of GPUs") struct GPUTopologyTests {
    /// As kfd_topology.c writes it; the lines that no image has are left out, but for one.
    static func properties(minor: Int, firmware: Int = 469, simds: Int = 256) -> String {
        """
        cpu_cores_count 0
        simd_count \(simds)
        mem_banks_count 1
        caches_count 96
        io_links_count 1
        cpu_core_id_base 0
        max_waves_per_simd 10
        lds_size_in_kb 64
        num_gws 64
        wave_front_size 64
        array_count 4
        vendor_id 4098
        device_id 26287
        drm_render_minor \(minor)
        hive_id 17361641481138401520
        num_cp_queues 24
        fw_version \(firmware)
        capability 238208
        sdma_fw_version 430

        """
    }
    static let bank = "heap_type 1\nsize_in_bytes 17163091968\nflags 0\nwidth 2048\nmem_clk_max 945\n"
    static func link(_ type: Int, to node: Int) -> String { "type \(type)\nversion_major 0\nnode_from 9\nnode_to \(node)\nweight 20\n" }

    @Test("a node is read as the driver writes it") func node() {
        let node = GPUTopology.node(2, gpuID: "4369\n", Self.properties(minor: 128), banks: [Self.bank, "heap_type 0\nsize_in_bytes 7\n"], links: [Self.link(11, to: 3), Self.link(2, to: 0)])
        #expect(node.isGPU && node.nodeID == 2 && node.gpuID == 4369 && node.simdCount == 256 && node.drmRenderMinor == 128 && node.sdmaFwVersion == 430)
        #expect(node.hiveID == 17_361_641_481_138_401_520 && node.vramSize == 17_163_091_968 && node.vramPublic == 1)
        #expect(node.iolinks.map(\.nodeToID) == [0, 3] && node.iolinks.map(\.type) == [2, 11] && node.ioLinksCount == 1)
        #expect(node.isInitialized, "every field that CRIU requires")
        let processors = GPUTopology.node(0, gpuID: "0\n", "cpu_cores_count 16\nsimd_count 0\n", banks: ["heap_type 0\nsize_in_bytes 99\n"], links: [])
        #expect(!processors.isGPU && processors.cpuCoresCount == 16 && processors.vramSize == 0 && processors.isInitialized)
    }

    @Test("a folder of nodes is read in the order of their numbers; other things in it are not theirs") func folder() throws {
        let place = NSTemporaryDirectory() + "stasis-topology-\(UUID().uuidString.prefix(8))"
        defer { try? FileManager.default.removeItem(atPath: place) }
        for (number, id) in [(10, 8738), (2, 4369), (0, 0)] {
            for folder in ["mem_banks/0", "io_links/0", "caches"] { try FileManager.default.createDirectory(atPath: "\(place)/\(number)/\(folder)", withIntermediateDirectories: true) }
            for (name, text) in [("gpu_id", "\(id)\n"), ("properties", Self.properties(minor: 128 + number)), ("mem_banks/0/properties", Self.bank), ("io_links/0/properties", Self.link(2, to: 0))] {
                try text.write(toFile: "\(place)/\(number)/\(name)", atomically: false, encoding: .utf8)
            }
        }
        try "1".write(toFile: place + "/generation_id", atomically: false, encoding: .utf8)
        let topology = try GPUTopology(reading: place)
        #expect(topology.nodes.map(\.nodeID) == [0, 2, 10] && topology.gpus.map(\.gpuID) == [4369, 8738])
        #expect(topology.gpu(atMinor: 138)?.gpuID == 8738 && topology.gpu(0) == nil)
    }
}
