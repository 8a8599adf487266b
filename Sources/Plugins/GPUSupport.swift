import ImageMessages
import Kinds
import Linux

/// Whether a plugin for GPUs could do its work on this machine, for `stasis check`. A machine without such a GPU lacks nothing.
package struct GPUSupport: Equatable, Sendable {
    package enum Verdict: Equatable, Sendable { case usable, noDevice, lacking }
    /// The plugin's.
    package let name: String
    /// What it is needed for.
    package let purpose: String
    package let verdict: Verdict
    /// What was found: versions, or what is missing.
    package let finding: String

    package static let names = [CUDAPlugin.name, AMDGPUPlugin.name]
    /// What is found here, now. NVIDIA's program is run to tell its version.
    package static func here(_ name: String) -> GPUSupport? {
        switch name {
        case CUDAPlugin.name: nvidia()
        case AMDGPUPlugin.name: amd()
        default: nil
        }
    }

    private static func nvidia() -> GPUSupport {
        func found(_ verdict: Verdict, _ finding: String) -> GPUSupport { GPUSupport(name: CUDAPlugin.name, purpose: "processes that use NVIDIA's GPUs (CUDA)", verdict: verdict, finding: finding) }
        guard let version = (try? Files.text("/sys/module/nvidia/version"))?.split(separator: "\n").first.map(String.init) else { return found(.noDevice, "NVIDIA's driver is not loaded") }
        let program = CUDAPlugin.Settings().program
        guard Program.find(program) != nil else { return found(.lacking, "NVIDIA's driver \(version) is there, its program \(program) is not in PATH") }
        let theirs = programVersion(program), versions = "\(program)\(theirs.map { " " + $0 } ?? ""), driver \(version)"
        if let major = Int(version.prefix { $0 != "." }), major < CUDAPlugin.firstDriver { return found(.lacking, "\(versions): driver \(CUDAPlugin.firstDriver) or later is needed") }
        return found(.usable, versions)
    }
    /// "Version 570.86.10. Copyright ..." is in its help.
    private static func programVersion(_ program: String) -> String? {
        guard let (end, printed) = (try? Program.output(of: program, ["--help"], within: 10)) ?? nil, end == .exited(0) else { return nil }
        let words = String(decoding: printed, as: UTF8.self).split { $0.isWhitespace }
        guard let at = words.firstIndex(of: "Version"), at + 1 < words.count else { return nil }
        let version = words[at + 1].prefix { $0.isNumber || $0 == "." }
        return String(version.hasSuffix(".") ? version.dropLast() : version)
    }

    private static func amd() -> GPUSupport {
        func found(_ verdict: Verdict, _ finding: String) -> GPUSupport { GPUSupport(name: AMDGPUPlugin.name, purpose: "processes that compute on AMD's GPUs (ROCm)", verdict: verdict, finding: finding) }
        guard GPUMachine.isThere else { return found(.noDevice, "there is no \(GPUMachine.driver)") }
        let machine = GPUMachine(capacity: 0)
        do {
            let version = try machine.checkDriver(), gpus = try machine.topology().gpus
            if gpus.isEmpty { return found(.noDevice, "amdkfd \(version) has no GPU") }
            return found(.usable, "amdkfd \(version), GPUs \(gpus.map { GPUMatch.hexadecimal($0.gpuID) }.joined(separator: ", "))")
        } catch { return found(.lacking, (error as? PluginError)?.cause ?? "\(error)") }
    }
}
