import Glibc
import ImageMessages
import Kinds
import Linux

/// This machine's GPUs and their driver, for one dump or restore.
final class GPUMachine {
    static let driver = "/dev/kfd", renderNode = "/dev/dri/renderD"

    private var known: GPUTopology?
    /// Bytes that a copy may take at a time.
    private let capacity: Int
    private var copiers: [UInt32: GPUCopier] = [:]

    static var isThere: Bool { (try? Files.status(driver))?.type == S_IFCHR }
    static func error(_ what: String) -> PluginError { PluginError(AMDGPUPlugin.name, what) }

    init(capacity: Int) { self.capacity = capacity }

    func topology() throws -> GPUTopology {
        if let known { return known }
        do throws(SyscallError) {
            let found = try GPUTopology()
            known = found
            return found
        } catch { throw Self.error("can't read the machine's GPUs: \(error)") }
    }

    /// Throws when the driver is too old: since 1.8 all contents can be copied; 1.7 was the first that knows CRIU. Answers its version.
    @discardableResult func checkDriver() throws -> String {
        let version: (major: UInt32, minor: UInt32)
        do throws(SyscallError) { version = try KFD.version(try FileDescriptor.open(Self.driver, O_RDWR)) } catch { throw Self.error("can't ask the driver for its version: \(error)") }
        guard version.major == 1, version.minor >= 8 else { throw Self.error("needs amdkfd 1.8 or later (Linux 5.18); this one is \(version.major).\(version.minor)") }
        return "\(version.major).\(version.minor)"
    }

    func open(_ gpu: KfdDeviceEntry) throws(SyscallError) -> FileDescriptor { try FileDescriptor.open("\(Self.renderNode)\(gpu.drmRenderMinor)", O_RDWR) }

    enum Direction { case save, fill }
    /// Copies the contents of a process's buffers on one GPU into their image, or out of it: those that have any, one behind the other.
    /// - Parameter memory: of the buffers, by their place among all of the process.
    func copy(_ direction: Direction, _ buffers: [KFD.Buffer], of user: UInt32, on gpu: KfdDeviceEntry, _ memory: [Int: FileDescriptor], _ file: FileDescriptor, _ task: ThreadID) throws {
        var place = AMDGPUImages.contentStart
        for (index, buffer) in buffers.enumerated() where buffer.gpu == user && buffer.hasContent {
            do {
                guard let memory = memory[index] else { throw SyscallError("a handle of its memory", nil, ENOENT) }
                switch direction {
                case .save: try copier(gpu).save(memory, buffer.size, to: file, at: place)
                case .fill: try copier(gpu).load(memory, buffer.size, from: file, at: place)
                }
            } catch { throw Self.error("can't \(direction) the \(buffer.size) bytes at \(GPUMatch.hexadecimal(buffer.address)) on GPU \(GPUMatch.hexadecimal(user)) of task \(task): \(error)") }
            place += buffer.size
        }
    }
    private func copier(_ gpu: KfdDeviceEntry) throws(SyscallError) -> GPUCopier {
        if let found = copiers[gpu.gpuID] { return found }
        let made = try GPUCopier(minor: gpu.drmRenderMinor, capacity: capacity)
        copiers[gpu.gpuID] = made
        return made
    }
}

extension Collection where Element == KFD.Buffer {
    /// Bytes of content on one GPU.
    func contentBytes(on gpu: UInt32) -> UInt64 { reduce(0) { $1.gpu == gpu && $1.hasContent ? $0 + $1.size : $0 } }
}
extension KfdBoEntry {
    init(_ buffer: KFD.Buffer) {
        self.init()
        (addr, size, offset, allocFlags, gpuID) = (buffer.address, buffer.size, buffer.offset, buffer.flags, buffer.gpu)
    }
}
extension KFD.Buffer {
    init(_ entry: KfdBoEntry) { self.init(address: entry.addr, size: entry.size, gpu: entry.gpuID, flags: entry.allocFlags, offset: entry.offset) }
}
