import Glibc
import ImageMessages
import Kinds
import Linux

/// Processes that stand still on their GPUs, and what becomes an image of them. Until `letRun` their queues are stopped; when we are killed before, a guardian lets them run.
final class GPUDump {
    /// A process whose queues stand.
    private final class Stopped {
        let task: ThreadID, kfd: FileDescriptor, counts: KFD.Counts
        /// The ids that it knows GPUs by, by the machine's.
        var userIDs: [UInt32: UInt32] = [:]
        init(_ task: ThreadID, _ kfd: FileDescriptor, _ counts: KFD.Counts) { (self.task, self.kfd, self.counts) = (task, kfd, counts) }
    }
    private let machine: GPUMachine, images: AMDGPUImages, log: Log
    private var stopped: [Stopped] = []
    private var guardian: Guardian?
    private var renderNodes: [(id: UInt32, gpu: KfdDeviceEntry, owner: Stopped)] = []
    /// False: it is a check, which stops no queues and writes nothing.
    private var stands = false

    init(_ machine: GPUMachine, _ images: AMDGPUImages, _ log: Log) { (self.machine, self.images, self.log) = (machine, images, log) }

    func stop(_ task: ThreadID) throws {
        stands = true
        for (number, kfd) in try opened(by: task) {
            if try owner(of: kfd) != nil { continue }  // inherited, or a second number
            if stopped.contains(where: { $0.task == task }) { throw GPUMachine.error("can't save task \(task), which has opened \(GPUMachine.driver) twice") }
            if stopped.isEmpty { try machine.checkDriver() }
            let before = guardian
            guardian = try Guardian(unpausing: stopped.map { ($0.kfd, $0.task) } + [(kfd, task)])
            before?.dismiss()
            do throws(SyscallError) { stopped.append(Stopped(task, kfd, try KFD.pause(kfd))) } catch {
                let reason = error.errno == Errno(EBADF) ? "it was opened by a process outside the tree" : "\(error)"
                throw GPUMachine.error("can't stop the GPU queues behind fd \(number) (\(GPUMachine.driver)) of task \(task): \(reason)")
            }
            log.debug("task \(task): GPU queues stopped")
        }
    }

    func letRun() throws {
        var first: (any Error)?
        for process in stopped.reversed() {
            do throws(SyscallError) { try KFD.unpause(process.kfd) } catch { first = first ?? GPUMachine.error("can't let the GPU queues of task \(process.task) run on: \(error)") }
        }
        forget()
        if let first { throw first }
    }
    /// The processes have ended.
    func forget() {
        guardian?.dismiss()
        (stopped, guardian) = ([], nil)
    }

    /// Its own /dev/kfd, or that of a process it comes from.
    private func opened(by task: ThreadID) throws(SyscallError) -> [(number: Int32, kfd: FileDescriptor)] {
        let numbers = try Proc.descriptors(of: task).filter { (try? Files.link("/proc/\(task)/fd/\($0)")) == GPUMachine.driver }
        if numbers.isEmpty { return [] }
        let pidfd = try FileDescriptor.process(task)
        return try numbers.map { number throws(SyscallError) in (number, try FileDescriptor.duplicate(number, ofProcess: pidfd)) }
    }
    private func owner(of kfd: FileDescriptor) throws(SyscallError) -> Stopped? {
        for process in stopped where try process.kfd.isSameOpenFile(as: kfd) { return process }
        return nil
    }

    // MARK: files

    /// An open /dev/kfd: everything that its process has.
    func save(_ kfd: FileDescriptor, id: UInt32, of task: ThreadID) throws {
        guard stands else { return try note(id, task) }
        guard let owner = try owner(of: kfd) else { throw GPUMachine.error("has not stopped what is behind \(GPUMachine.driver) of task \(task)") }
        do { try save(owner, id) } catch let error as SyscallError { throw GPUMachine.error("can't save what task \(owner.task) has on its GPUs: \(error)") }
    }

    /// An open render node. False: it is no GPU of AMD's.
    func save(renderNode path: String, id: UInt32, of task: ThreadID) throws -> Bool {
        guard let gpu = try UInt32(path.dropFirst(GPUMachine.renderNode.count)).flatMap(machine.topology().gpu(atMinor:)) else { return false }
        guard let kfd = try opened(by: task).first?.kfd else {
            throw GPUMachine.error("can't save \(path) of task \(task), which does not use \(GPUMachine.driver): the kernel gives out memory for computing, not for graphics")
        }
        if let owner = try owner(of: kfd) { renderNodes.append((id, gpu, owner)) }
        return true
    }
    /// The ids that processes know their GPUs by are known when all of them are saved.
    func finish() throws {
        for node in renderNodes {
            var image = CriuRenderNode()
            image.gpuID = node.owner.userIDs[node.gpu.gpuID] ?? node.gpu.gpuID
            try images.write(image, AMDGPUImages.Name.renderNode(node.id))
        }
        renderNodes = []
    }

    /// A check stops no queues, so it can't ask what the process has. The driver makes every GPU that a process sees one of the process's, and a restore wants as many: those that we see.
    private func note(_ id: UInt32, _ task: ThreadID) throws {
        try machine.checkDriver()
        var image = CriuKfd(nodes: try machine.topology().nodes)
        image.pid = UInt32(bitPattern: task.rawValue)
        try images.write(image, AMDGPUImages.Name.process(id))
    }

    private func save(_ process: Stopped, _ id: UInt32) throws {
        let all = try KFD.checkpoint(process.kfd, process.counts), topology = try machine.topology()
        for device in all.devices {
            guard let gpu = topology.gpu(device.actualID) else { throw GPUMachine.error("finds no GPU \(GPUMatch.hexadecimal(device.actualID)) of task \(process.task) in \(GPUTopology.place)") }
            process.userIDs[gpu.gpuID] = device.userID
            let file = try images.create(AMDGPUImages.Name.contents(id, device.userID), all.buffers.contentBytes(on: device.userID))
            try machine.copy(.save, all.buffers, of: device.userID, on: gpu, all.memory, file, process.task)
        }
        var image = CriuKfd(nodes: topology.nodes.compactMap { node in
            guard node.isGPU else { return node }
            var entry = node
            guard let user = process.userIDs[node.gpuID] else { return nil }
            entry.gpuID = user
            return entry
        })
        (image.pid, image.privData) = (UInt32(bitPattern: all.counts.process), .init(imageBytes: all.privateData))
        image.boEntries = all.buffers.map(KfdBoEntry.init)
        (image.numOfBos, image.numOfObjects) = (UInt64(all.buffers.count), all.counts.objects)
        try images.write(image, AMDGPUImages.Name.process(id))
        log.info("task \(process.task): \(all.devices.count) GPUs, \(all.buffers.count) buffers, \(all.counts.objects) queues, events and ranges saved")
    }
}

extension CriuKfd {
    /// GPUs and CPUs, and nothing on them.
    fileprivate init(nodes: [KfdDeviceEntry]) {
        self.init()
        deviceEntries = nodes
        numOfGpus = UInt32(nodes.count(where: \.isGPU))
        numOfCpus = UInt32(nodes.count) - numOfGpus
        (pid, numOfBos, numOfObjects, sharedMemSize, sharedMemMagic) = (0, 0, 0, 0, 0)
        privData = .init(imageBytes: [])
    }
}
