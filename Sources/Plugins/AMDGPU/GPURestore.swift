import CLinux
import Glibc
import Graft
import ImageMessages
import Kinds
import Linux

/// The images' processes, each with a match for its GPUs here, and how far they are back.
final class GPURestore {
    private final class Process {
        let id: UInt32, image: CriuKfd
        /// By the ids that it knows its GPUs by.
        let gpus: [UInt32: KfdDeviceEntry]
        var kfd: FileDescriptor?, buffers: [KFD.Buffer] = [], nodes: [UInt32: FileDescriptor] = [:]
        init(_ id: UInt32, _ image: CriuKfd, _ gpus: [UInt32: KfdDeviceEntry]) { (self.id, self.image, self.gpus) = (id, image, gpus) }
        var task: ThreadID { ThreadID(Int32(truncatingIfNeeded: image.pid)) }
        var userIDs: [UInt32] { image.deviceEntries.filter(\.isGPU).map(\.gpuID) }
    }
    private let machine: GPUMachine, images: AMDGPUImages
    private var processes: [UInt32: Process] = [:]
    /// Render nodes that processes have open, by file id; open again once they are made.
    private var renderNodes: [UInt32: (gpu: KfdDeviceEntry, file: FileDescriptor?)] = [:]

    /// Reads the images and finds the matches. Nothing is made.
    init(_ machine: GPUMachine, _ images: AMDGPUImages, _ checks: GPUMatch.Checks) throws {
        (self.machine, self.images) = (machine, images)
        let here = try machine.topology()
        do {
            for id in try images.ids("amdgpu-kfd-") {
                let image = try images.process(id), match = try GPUMatch.find(from: GPUTopology(image.deviceEntries), to: here, checks)
                processes[id] = Process(id, image, match.compactMapValues { here.gpu($0) })
            }
            for id in try images.ids("amdgpu-renderD-") {
                let name = AMDGPUImages.Name.renderNode(id), user = try images.read(CriuRenderNode.self, name).gpuID
                guard let gpu = processes.values.lazy.compactMap({ $0.gpus[user] }).first else { throw AMDGPUImages.Damage(name, "no process in the images has its GPU \(GPUMatch.hexadecimal(user))") }
                renderNodes[id] = (gpu, nil)
            }
        } catch {
            if error is SyscallError { throw error }
            throw GPUMachine.error("finds that \(error)")
        }
    }

    func begin(_ log: Log) throws {
        if !processes.isEmpty { try machine.checkDriver() }
        for process in processes.values {
            for (user, gpu) in process.gpus.sorted(by: { $0.key < $1.key }) where user != gpu.gpuID { log.info("task \(process.task): its GPU \(GPUMatch.hexadecimal(user)) is now \(GPUMatch.hexadecimal(gpu.gpuID))") }
        }
    }

    // MARK: files

    /// Render nodes first: a process's GPUs are reached through those that it has open itself.
    func restoreFile(_ id: UInt32, _ session: PluginSession) throws -> RestoredByPlugin? {
        if let node = renderNodes[id] {
            let file = try machine.open(node.gpu)
            renderNodes[id]?.file = file
            return .made(file)
        }
        guard let process = processes[id] else { return nil }
        if renderNodes.values.contains(where: { $0.file == nil }) { return .later }
        return .made(try restore(process, session))
    }

    private func restore(_ process: Process, _ session: PluginSession) throws -> FileDescriptor {
        guard let task = session.task(process.task) else { throw GPUMachine.error("finds no task \(process.task) in the tree, to which \(AMDGPUImages.Name.process(process.id)) belongs") }
        let its = session.files(process.task)
        for (user, gpu) in process.gpus {
            let own = renderNodes.first { its.contains($0.key) && $0.value.gpu.gpuID == gpu.gpuID }?.value.file
            process.nodes[user] = try own ?? machine.open(gpu)
        }
        let (kfd, memory) = try give(process, to: task)
        for (user, gpu) in process.gpus {
            let file = try images.contents(process.id, user, process.buffers.contentBytes(on: user))
            try machine.copy(.fill, process.buffers, of: user, on: gpu, memory, file, process.task)
        }
        return kfd
    }

    /// Has the process open /dev/kfd and make the call; what it needs for that is gone from it afterwards. Answers the memory of its buffers, too, by their place.
    private func give(_ process: Process, to task: any RestoredTask) throws -> (kfd: FileDescriptor, memory: [Int: FileDescriptor]) {
        let image = process.image, users = process.userIDs, memory = RemoteMemory(of: task.pid), pidfd = try FileDescriptor.process(task.pid)
        let nodes = try task.receive(users.map { process.nodes[$0]! })
        let size = (KFD.restoreSize(devices: users.count, buffers: image.boEntries.count, privateBytes: image.privData.count) + 4095) & ~4095
        var opening = task.grafted.batch()
        let open = opening.call("openat(\(GPUMachine.driver))", SYS_openat, .init(AT_FDCWD), opening.string(GPUMachine.driver), .init(O_RDWR | O_CLOEXEC), 0)
        let map = opening.call("mmap", SYS_mmap, 0, .init(size), 3, .init(0x22), .init(-1), 0)
        try task.grafted.run(&opening)
        let number = Int32(opening.result(open)), address = UInt64(opening.result(map))

        let devices = zip(users, nodes).map { KFD.Device(userID: $0, actualID: process.gpus[$0]!.gpuID, renderNode: $1) }
        let call = KFD.restoreCall(devices, image.boEntries.map(KFD.Buffer.init), objects: image.numOfObjects, privateData: [UInt8](image.privData), at: address)
        try memory.write(call.bytes, at: address)
        var asking = task.grafted.batch()
        let ask = asking.call("ioctl(AMDKFD_IOC_CRIU_OP, RESTORE)", SYS_ioctl, .init(number), .init(call.request), .init(call.arguments), mayFail: true)
        try task.grafted.run(&asking)
        if asking.result(ask) < 0 { throw try refused(process, Int32(-asking.result(ask))) }
        process.buffers = KFD.Block(bytes: try memory.read(address, call.bytes.count), devices: users.count, buffers: image.boEntries.count).buffers

        let kfd = try FileDescriptor.duplicate(number, ofProcess: pidfd)
        process.kfd = kfd
        var content: [Int: FileDescriptor] = [:]
        for (index, buffer) in process.buffers.enumerated() where buffer.memory >= 0 { content[index] = try FileDescriptor.duplicate(buffer.memory, ofProcess: pidfd) }
        let lent: [Int32] = nodes + [number] + process.buffers.map(\.memory).filter { $0 >= 0 }
        var closing = task.grafted.batch()
        closing.call("munmap", SYS_munmap, .init(address), .init(size))
        for number in lent {
            if closing.room == 0 {
                try task.grafted.run(&closing)
                closing = task.grafted.batch()
            }
            closing.call("close", SYS_close, .init(number))
        }
        try task.grafted.run(&closing)
        return (kfd, content)
    }
    private func refused(_ process: Process, _ errno: Int32) throws -> PluginError {
        let had = process.userIDs.count, has = try machine.topology().gpus.count
        return GPUMachine.error("can't restore what task \(process.task) had on its GPUs: ioctl(AMDKFD_IOC_CRIU_OP, RESTORE): \(Errno(errno))"
            + (errno == EINVAL && had != has ? "; the driver wants as many GPUs to be here as the process had: \(had), not \(has) (a cgroup can hide some)" : ""))
    }

    // MARK: mappings, queues

    /// To where the buffer is now, through the file that the process reaches its GPU by.
    func place(ofMapping path: String, _ address: UInt64, _ offset: UInt64, of task: ThreadID) throws -> UpdatedMapping? {
        guard let process = processes.values.first(where: { $0.task == task }) else { return nil }
        if path == GPUMachine.driver {
            let buffer = process.buffers.first { $0.isOfKFD && $0.offset == offset }
            return UpdatedMapping(offset: buffer?.restoredOffset ?? offset, file: process.kfd)  // pages of events stay where they are
        }
        guard let old = UInt32(path.dropFirst(GPUMachine.renderNode.count)).flatMap(GPUTopology(process.image.deviceEntries).gpu(atMinor:)),
            let buffer = process.buffers.first(where: { $0.gpu == old.gpuID && $0.hasContent && offset >= $0.offset && offset - $0.offset < $0.size })
        else { throw GPUMachine.error("finds no saved buffer behind the mapping of \(path) at \(GPUMatch.hexadecimal(address)) of task \(task)") }
        return UpdatedMapping(offset: buffer.restoredOffset + (offset - buffer.offset), file: process.nodes[old.gpuID])
    }

    func letRun(_ task: ThreadID) throws {
        guard let process = processes.values.first(where: { $0.task == task }), let kfd = process.kfd else { return }
        do throws(SyscallError) { try KFD.resume(kfd, task) } catch { throw GPUMachine.error("can't let the GPU queues of task \(task) run: \(error)") }
    }
}
