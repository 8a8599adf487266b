import ImageMessages
import Testing

@testable import Plugins

@Suite("which GPU takes whose place") struct GPUMatchTests {
    private static func gpu(_ node: UInt32, _ id: UInt32, _ links: [(type: Int, node: Int)] = [(2, 0)], firmware: Int = 469, simds: Int = 256) -> KfdDeviceEntry {
        GPUTopology.node(
            node, gpuID: "\(id)", GPUTopologyTests.properties(minor: 127 + Int(node), firmware: firmware, simds: simds), banks: [GPUTopologyTests.bank],
            links: links.map { GPUTopologyTests.link($0.type, to: $0.node) })
    }
    private static func machine(_ gpus: KfdDeviceEntry..., processors: [UInt32] = [0]) -> GPUTopology {
        GPUTopology(processors.map { GPUTopology.node($0, gpuID: "0", "cpu_cores_count 16\n", banks: [], links: []) } + gpus)
    }

    @Test("on the same machine every GPU is its own") func same() throws {
        let machine = Self.machine(Self.gpu(1, 30), Self.gpu(2, 10), Self.gpu(3, 20))
        #expect(try GPUMatch.find(from: machine, to: machine) == [10: 10, 20: 20, 30: 30])
    }

    @Test("a GPU goes to one of its make, with other ids and numbers") func other() throws {
        let old = Self.machine(Self.gpu(1, 10), Self.gpu(2, 20, simds: 128)), new = Self.machine(Self.gpu(4, 7, simds: 128), Self.gpu(5, 8))
        #expect(try GPUMatch.find(from: old, to: new) == [10: 8, 20: 7])
    }

    @Test("older firmware is refused, unless the check is off; newer is good") func firmware() throws {
        let old = Self.machine(Self.gpu(1, 10)), new = Self.machine(Self.gpu(1, 11, firmware: 468))
        let error = #expect(throws: GPUMatch.Mismatch.self) { try GPUMatch.find(from: old, to: new) }
        #expect(error?.description == "no GPU here can take the place of the dump's GPU 0xa: GPU 0xb has fw_version 468, less than 469 (KFD_FW_VER_CHECK=0 lets it pass)")
        #expect(try GPUMatch.find(from: old, to: new, GPUMatch.Checks.all.subtracting(.firmware)) == [10: 11])
        #expect(try GPUMatch.find(from: new, to: old) == [11: 10])
    }

    @Test("every number that is compared is compared") func differences() {
        let old = Self.gpu(1, 10)
        let same: [WritableKeyPath<KfdDeviceEntry, UInt32>] = [\.vendorID, \.deviceID, \.simdCount, \.maxWavesPerSimd, \.ldsSizeInKb, \.gdsSizeInKb, \.waveFrontSize, \.arrayCount, \.cuPerSimdArray, \.numCpQueues]
        for field in same {
            var new = old
            new[keyPath: field] += 1
            #expect(GPUMatch.difference(old, new).count == 1)
        }
        let enough: [(WritableKeyPath<KfdDeviceEntry, UInt32>, GPUMatch.Checks)] = [(\.fwVersion, .firmware), (\.sdmaFwVersion, .copyFirmware), (\.cachesCount, .caches), (\.numGws, .globalWaveSync)]
        for (field, check) in enough {
            var new = old
            new[keyPath: field] += 1
            #expect(GPUMatch.difference(old, new).isEmpty)
            #expect(GPUMatch.difference(new, old).count == 1 && GPUMatch.difference(new, old, GPUMatch.Checks.all.subtracting(check)).isEmpty)
        }
        var small = old
        small.vramSize -= 1
        #expect(GPUMatch.difference(old, small).count == 1 && GPUMatch.difference(old, small, GPUMatch.Checks.all.subtracting(.memorySize)).isEmpty)
        var able = old
        able.capability ^= 1
        #expect(GPUMatch.difference(old, able).count == 1 && GPUMatch.difference(able, old, GPUMatch.Checks.all.subtracting(.capability)).isEmpty)
    }

    @Test("GPUs with a direct link go to GPUs with one") func links() throws {
        let old = Self.machine(Self.gpu(1, 10, [(2, 0), (11, 2)]), Self.gpu(2, 20, [(2, 0), (11, 1)]))
        let new = Self.machine(Self.gpu(1, 1), Self.gpu(2, 2, [(2, 0), (11, 3)]), Self.gpu(3, 3, [(2, 0), (11, 2)]))
        #expect(try GPUMatch.find(from: old, to: new) == [10: 2, 20: 3])
        let error = #expect(throws: GPUMatch.Mismatch.self) { try GPUMatch.find(from: old, to: Self.machine(Self.gpu(1, 1), Self.gpu(2, 2))) }
        #expect(error?.description.contains("their links (XGMI) or their CPUs are others") == true)
    }

    @Test("GPUs at the same CPUs stay together, unless that check is off") func processors() throws {
        let old = Self.machine(Self.gpu(1, 10), Self.gpu(2, 20)), apart = Self.machine(Self.gpu(2, 1, [(2, 0)]), Self.gpu(3, 2, [(2, 1)]), processors: [0, 1])
        #expect(throws: GPUMatch.Mismatch.self) { try GPUMatch.find(from: old, to: apart) }
        #expect(try GPUMatch.find(from: old, to: apart, GPUMatch.Checks.all.subtracting(.processors)) == [10: 1, 20: 2])
        let three = Self.machine(Self.gpu(2, 1, [(2, 0)]), Self.gpu(3, 2, [(2, 1)]), Self.gpu(4, 3, [(2, 1)]), processors: [0, 1])
        #expect(try GPUMatch.find(from: old, to: three) == [10: 2, 20: 3])
    }

    @Test("too few GPUs are told as that") func few() {
        let old = Self.machine(Self.gpu(1, 10), Self.gpu(2, 20))
        let error = #expect(throws: GPUMatch.Mismatch.self) { try GPUMatch.find(from: old, to: Self.machine(Self.gpu(1, 1))) }
        #expect(error?.description == "each of the dump's 2 GPUs has a like here, but not all together: there are 1")
        let none = #expect(throws: GPUMatch.Mismatch.self) { try GPUMatch.find(from: old, to: Self.machine()) }
        #expect(none?.description == "no GPU here can take the place of the dump's GPU 0xa: there is none")
    }

    @Test("CRIU's variables switch single checks", arguments: ["0", "N", "no"]) func switches(off: String) {
        let settings = AMDGPUSettings { ["KFD_NUMA_CHECK": off, "KFD_FW_VER_CHECK": "YES", "KFD_NUM_GWS_CHECK": "maybe"][$0] }
        #expect(settings.checks == GPUMatch.Checks.all.subtracting(.processors) && settings.ignored == ["KFD_NUM_GWS_CHECK=maybe: YES, NO, 1 or 0 was expected"])
    }

    @Test("the size of the copy buffer is taken with its unit", arguments: [("4096", 4096), ("64K", 65536), ("2m", 2 << 20), ("2G", 32 << 20), ("0", 32 << 20)]) func capacity(text: String, bytes: Int) {
        #expect(AMDGPUSettings { $0 == "KFD_MAX_BUFFER_SIZE" ? text : nil }.capacity == bytes)
    }
    @Test("a size that is none is ignored", arguments: ["", "x", "5T", "99999999999G"]) func noSize(text: String) {
        #expect(AMDGPUSettings { $0 == "KFD_MAX_BUFFER_SIZE" ? text : nil }.ignored.count == 1)
    }
}
