import ImageMessages

/// Which GPU of this machine takes the place of each GPU of the dump. A pure function of both topologies.
enum GPUMatch {
    /// What must fit beside the make of a GPU, which always must. CRIU's KFD_*_CHECK variables leave single ones out.
    struct Checks: OptionSet, Hashable {
        let rawValue: Int
        static let firmware = Checks(rawValue: 1), copyFirmware = Checks(rawValue: 2), caches = Checks(rawValue: 4), globalWaveSync = Checks(rawValue: 8)
        static let memorySize = Checks(rawValue: 16), processors = Checks(rawValue: 32), capability = Checks(rawValue: 64)
        static let all = Checks(rawValue: 127)
    }
    /// Why there is no match, GPU by GPU.
    struct Mismatch: Error, Equatable, CustomStringConvertible { let description: String }

    /// - Returns: by the ids of the dump's GPUs, those of this machine's. The same ids as before where that is possible.
    static func find(from old: GPUTopology, to new: GPUTopology, _ checks: Checks = .all) throws(Mismatch) -> [UInt32: UInt32] {
        let gpus = old.gpus
        var candidates = [[KfdDeviceEntry]]()
        for gpu in gpus {
            let differences = new.gpus.map { (gpu: $0, all: difference(gpu, $0, checks)) }
            let fitting = differences.filter(\.all.isEmpty).map(\.gpu).sorted { ($0.gpuID == gpu.gpuID ? 0 : 1, $0.nodeID) < ($1.gpuID == gpu.gpuID ? 0 : 1, $1.nodeID) }
            if fitting.isEmpty {
                let reasons = differences.map { "GPU \(hexadecimal($0.gpu.gpuID)) has \($0.all.joined(separator: ", "))" }
                throw Mismatch(description: "no GPU here can take the place of the dump's GPU \(hexadecimal(gpu.gpuID)): " + (reasons.isEmpty ? "there is none" : reasons.joined(separator: "; ")))
            }
            candidates.append(fitting)
        }
        var chosen = [KfdDeviceEntry]()
        func choose() -> Bool {
            if chosen.count == gpus.count { return true }
            for candidate in candidates[chosen.count] where !chosen.contains(where: { $0.gpuID == candidate.gpuID }) {
                chosen.append(candidate)
                if isLinked(chosen) && choose() { return true }
                chosen.removeLast()
            }
            return false
        }
        /// Whether the last of those chosen stands to the others as the dump's did.
        func isLinked(_ chosen: [KfdDeviceEntry]) -> Bool {
            let last = chosen.count - 1
            let home = checks.contains(.processors) ? new.processors(of: chosen[last]) : nil
            for other in 0..<last {
                for (a, b) in [(last, other), (other, last)] {
                    if let type = gpus[a].link(to: gpus[b].nodeID), type == directLink, chosen[a].link(to: chosen[b].nodeID) != type { return false }
                }
                if checks.contains(.processors), old.processors(of: gpus[last]) == old.processors(of: gpus[other]), home != new.processors(of: chosen[other]) { return false }
            }
            return true
        }
        guard choose() else {
            throw Mismatch(
                description: "each of the dump's \(gpus.count) GPUs has a like here, but not all together: "
                    + (new.gpus.count < gpus.count ? "there are \(new.gpus.count)" : "their links (XGMI) or their CPUs are others"))
        }
        return Dictionary(uniqueKeysWithValues: zip(gpus.map(\.gpuID), chosen.map(\.gpuID)))
    }

    /// KFD's type of a link of GPUs without the CPUs between them (HSA_IOLINK_TYPE_XGMI).
    private static let directLink: UInt32 = 11

    /// What a GPU lacks to take another's place, in words.
    static func difference(_ old: KfdDeviceEntry, _ new: KfdDeviceEntry, _ checks: Checks = .all) -> [String] {
        var found = [String]()
        func same(_ name: String, _ field: KeyPath<KfdDeviceEntry, UInt32>) {
            if old[keyPath: field] != new[keyPath: field] { found.append("\(name) \(new[keyPath: field]), not \(old[keyPath: field])") }
        }
        func enough(_ name: String, _ old: UInt64, _ new: UInt64, _ check: Checks, _ variable: String) {
            if checks.contains(check), new < old { found.append("\(name) \(new), less than \(old) (\(variable)=0 lets it pass)") }
        }
        same("vendor_id", \.vendorID)
        same("device_id", \.deviceID)
        same("simd_count", \.simdCount)
        same("max_waves_per_simd", \.maxWavesPerSimd)
        same("lds_size_in_kb", \.ldsSizeInKb)
        same("gds_size_in_kb", \.gdsSizeInKb)
        same("wave_front_size", \.waveFrontSize)
        same("array_count", \.arrayCount)
        same("simd_arrays_per_engine", \.simdArraysPerEngine)
        same("cu_per_simd_array", \.cuPerSimdArray)
        same("simd_per_cu", \.simdPerCu)
        same("max_slots_scratch_cu", \.maxSlotsScratchCu)
        same("num_sdma_engines", \.numSdmaEngines)
        same("num_sdma_xgmi_engines", \.numSdmaXgmiEngines)
        same("num_sdma_queues_per_engine", \.numSdmaQueuesPerEngine)
        same("num_cp_queues", \.numCpQueues)
        if checks.contains(.capability), old.capability != new.capability {
            found.append("capability \(hexadecimal(new.capability)), not \(hexadecimal(old.capability)) (KFD_CAPABILITY_CHECK=0 lets it pass)")
        }
        if old.vramPublic != 0, new.vramPublic == 0 { found.append("memory that the CPU does not reach (no large BAR)") }
        enough("fw_version", UInt64(old.fwVersion), UInt64(new.fwVersion), .firmware, "KFD_FW_VER_CHECK")
        enough("sdma_fw_version", UInt64(old.sdmaFwVersion), UInt64(new.sdmaFwVersion), .copyFirmware, "KFD_SDMA_FW_VER_CHECK")
        enough("caches_count", UInt64(old.cachesCount), UInt64(new.cachesCount), .caches, "KFD_CACHES_COUNT_CHECK")
        enough("num_gws", UInt64(old.numGws), UInt64(new.numGws), .globalWaveSync, "KFD_NUM_GWS_CHECK")
        enough("memory", old.vramSize, new.vramSize, .memorySize, "KFD_VRAM_SIZE_CHECK")
        return found
    }
    static func hexadecimal(_ number: some BinaryInteger) -> String { "0x" + String(number, radix: 16) }
}

extension KfdDeviceEntry {
    /// The type of its link to a node.
    fileprivate func link(to node: UInt32) -> UInt32? { iolinks.first { $0.nodeToID == node }?.type }
}
extension GPUTopology {
    /// The node of CPUs that a GPU is at.
    fileprivate func processors(of gpu: KfdDeviceEntry) -> UInt32? {
        gpu.iolinks.first { link in nodes.contains { $0.nodeID == link.nodeToID && !$0.isGPU } }?.nodeToID
    }
}
