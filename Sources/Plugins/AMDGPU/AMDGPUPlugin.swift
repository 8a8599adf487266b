import CLinux
import Glibc
import Graft
import ImageMessages
package import Kinds
package import Linux

/// Processes that compute on AMD GPUs (ROCm, /dev/kfd), through what amdkfd offers for CRIU (`KFD`):
///
/// - when the tree stands, each process's queues are stopped. They run on when the tree does, whatever happens in between;
/// - with its /dev/kfd, all that a process has there is saved: buffers with their contents, and queues, events and ranges of shared memory in an account that only the driver reads;
/// - on a restore each GPU gets its match (`GPUMatch`). The process opens /dev/kfd and gives the driver the account back; contents are filled in, mappings of device memory
///   lead to where the buffers are now. The process goes on knowing its GPUs by their old ids.
///
/// The images are those of CRIU's plugin of the same name.
package final class AMDGPUPlugin: Plugin {
    package let name = "amdgpu_plugin"
    package let hooks: Set<PluginHook> = [.checkpointDevices, .dumpFile, .claimMapping, .dumpDevicesLate, .beginRestore, .restoreFile, .updateMapping, .resumeDevices]
    private static let device = "/dev/kfd", renderNode = "/dev/dri/renderD"

    private let settings: AMDGPUSettings
    private let isThere: Bool
    private var session: PluginSession?
    private var copiers: [UInt32: GPUCopier] = [:]

    package init(_ settings: AMDGPUSettings = AMDGPUSettings()) {
        self.settings = settings
        isThere = (try? Files.status(Self.device))?.type == S_IFCHR
    }

    package var obstacle: String? { isThere ? nil : "this machine has no \(Self.device), the device of AMD's compute driver" }
    package func mayTake(_ hook: PluginHook, _ name: String) -> Bool {
        isThere && (hook == .dumpFile || hook == .claimMapping) && (name == Self.device || name.hasPrefix(Self.renderNode))
    }

    package func begin(_ stage: PluginStage, _ session: PluginSession) throws -> Bool {
        self.session = session
        guard isThere, stage != .restore || session.needs(name) else { return false }
        for text in settings.ignored { session.log.warn("ignored: \(text)") }
        return true
    }

    package func end(_ stage: PluginStage, _ ending: PluginEnding) throws {
        defer {
            guardian?.dismiss()
            (copiers, stopped, renderFiles, processes, madeNodes, stands, guardian) = ([:], [], [], [:], [:], false, nil)
        }
        guard stage == .dump, ending.treeRuns else { return }
        var first: (any Error)?
        for process in stopped.reversed() {
            do { try KFD.unpause(process.kfd) } catch { first = first ?? self.error("can't let the GPU queues of task \(process.task) run on: \(error)") }
        }
        if let first { throw first }
    }

    // MARK: dump

    /// A process whose queues stand.
    private final class Stopped {
        let task: ThreadID, kfd: FileDescriptor, counts: KFD.Counts
        /// The ids that it knows GPUs by, by the machine's.
        var userIDs: [UInt32: UInt32]?
        init(_ task: ThreadID, _ kfd: FileDescriptor, _ counts: KFD.Counts) { (self.task, self.kfd, self.counts) = (task, kfd, counts) }
    }
    private var stopped: [Stopped] = []
    /// Lets them run on when we are killed.
    private var guardian: Guardian?
    /// False: it is a check, which stops no queues and writes nothing.
    private var stands = false
    private var renderFiles: [(id: UInt32, minor: UInt32, task: ThreadID)] = []

    /// Before descriptors and memory are looked at: from here on no GPU changes what is saved.
    package func checkpointDevices(of process: ThreadID) throws {
        stands = true
        for (number, kfd) in try opened(by: process) {
            if try stopped.contains(where: { try $0.kfd.isSameOpenFile(as: kfd) }) { continue }  // inherited, or a second number
            if stopped.contains(where: { $0.task == process }) { throw error("can't save task \(process), which has opened \(Self.device) twice") }
            if stopped.isEmpty { try checkDriver() }
            let before = guardian
            guardian = try Guardian(unpausing: stopped.map { ($0.kfd, $0.task) } + [(kfd, process)])
            before?.dismiss()
            do throws(SyscallError) { stopped.append(Stopped(process, kfd, try KFD.pause(kfd))) } catch {
                let reason = error.errno == Errno(EBADF) ? "it was opened by a process outside the tree" : "\(error)"
                throw self.error("can't stop the GPU queues behind fd \(number) (\(Self.device)) of task \(process): \(reason)")
            }
            session?.log.debug("task \(process): GPU queues stopped")
        }
    }

    package func dump(file: FileDescriptor, id: UInt32, of process: ThreadID) throws -> Bool {
        let path = try Files.link(file.procPath)
        guard path == Self.device || path.hasPrefix(Self.renderNode) else { return false }
        if path == Self.device {
            session?.use(name)
            guard stands else {
                try checkDriver()
                return true
            }
            guard let owner = try stopped.first(where: { try $0.kfd.isSameOpenFile(as: file) }) else { throw error("has not stopped what is behind \(Self.device) of task \(process)") }
            do { try save(owner, id) } catch let error as SyscallError { throw self.error("can't save what task \(owner.task) has on its GPUs: \(error)") }
        } else {
            guard let minor = UInt32(path.dropFirst(Self.renderNode.count)), try topology().gpu(atMinor: minor) != nil else { return false }
            guard let kfd = try opened(by: process).first?.kfd else {
                throw error("can't save \(path) of task \(process), which does not use \(Self.device): the kernel gives out memory for computing, not for graphics")
            }
            if let owner = try stopped.first(where: { try $0.kfd.isSameOpenFile(as: kfd) }) { renderFiles.append((id, minor, owner.task)) }
        }
        return true
    }

    /// Its content is that of a buffer.
    package func claims(mappingOf device: FileDescriptor) throws -> Bool {
        let path = try Files.link(device.procPath)
        return path == Self.device || path.hasPrefix(Self.renderNode)
    }

    private func save(_ process: Stopped, _ id: UInt32) throws {
        let images = try self.images(), topology = try topology()
        let all = try KFD.checkpoint(process.kfd, process.counts)
        let userIDs = Dictionary(all.devices.map { ($0.actualID, $0.userID) }) { first, _ in first }
        process.userIDs = userIDs
        for device in all.devices {
            guard let gpu = topology.gpu(device.actualID) else { throw error("finds no GPU \(GPUMatch.hexadecimal(device.actualID)) of task \(process.task) in \(GPUTopology.place)") }
            let mine = all.buffers.enumerated().filter { $0.element.gpu == device.userID && $0.element.hasContent }
            let file = try images.create(AMDGPUImages.Name.contents(id, device.userID), mine.reduce(0) { $0 + $1.element.size })
            var place = AMDGPUImages.contentStart
            for (index, buffer) in mine {
                guard let memory = all.memory[index] else { throw error("got no memory of the buffer at \(GPUMatch.hexadecimal(buffer.address)) of task \(process.task)") }
                try about("save", buffer, process.task) { try copier(gpu).save(memory, buffer.size, to: file, at: place) }
                place += buffer.size
            }
        }
        var image = CriuKfd()
        (image.pid, image.privData) = (UInt32(bitPattern: all.counts.process), .init(imageBytes: all.privateData))
        image.deviceEntries = topology.nodes.compactMap { node in
            var entry = node
            if node.isGPU {
                guard let user = userIDs[node.gpuID] else { return nil }
                entry.gpuID = user
            }
            return entry
        }
        image.numOfGpus = UInt32(all.devices.count)
        image.numOfCpus = UInt32(image.deviceEntries.count) - image.numOfGpus
        image.boEntries = all.buffers.map(KfdBoEntry.init)
        (image.numOfBos, image.numOfObjects) = (UInt64(all.buffers.count), all.counts.objects)
        (image.sharedMemSize, image.sharedMemMagic) = (0, 0)
        try images.write(image, AMDGPUImages.Name.process(id))
        session?.log.info("task \(process.task): \(all.devices.count) GPUs, \(all.buffers.count) buffers, \(all.counts.objects) queues, events and ranges saved")
    }

    /// Render nodes: the ids that processes know their GPUs by are known when all of them are saved.
    package func dumpDevicesLate(of process: ThreadID) throws {
        for file in renderFiles where file.task == process {
            guard let gpu = try topology().gpu(atMinor: file.minor), let owner = stopped.first(where: { $0.task == process }) else { continue }
            var image = CriuRenderNode()
            image.gpuID = owner.userIDs?[gpu.gpuID] ?? gpu.gpuID
            try images().write(image, AMDGPUImages.Name.renderNode(file.id))
        }
    }

    /// Its own /dev/kfd, or that of a process it comes from.
    private func opened(by process: ThreadID) throws -> [(number: Int32, kfd: FileDescriptor)] {
        let numbers = try Proc.descriptors(of: process).filter { (try? Files.link("/proc/\(process)/fd/\($0)")) == Self.device }
        if numbers.isEmpty { return [] }
        let pidfd = try FileDescriptor.process(process)
        return try numbers.map { ($0, try FileDescriptor.duplicate($0, ofProcess: pidfd)) }
    }

    // MARK: restore

    /// A process of the images, and what becomes of it.
    private final class Restored {
        let id: UInt32, image: CriuKfd, match: [UInt32: UInt32]
        var kfd: FileDescriptor?, buffers: [KFD.Buffer] = [], nodes: [UInt32: FileDescriptor] = [:]
        init(_ id: UInt32, _ image: CriuKfd, _ match: [UInt32: UInt32]) { (self.id, self.image, self.match) = (id, image, match) }
        var task: ThreadID { ThreadID(Int32(truncatingIfNeeded: image.pid)) }
    }
    private var processes: [UInt32: Restored] = [:]
    /// Render nodes that the images have, by file id: the GPU here, open once it is made.
    private var madeNodes: [UInt32: (gpu: KfdDeviceEntry, file: FileDescriptor?)] = [:]

    package func check(_ images: FileDescriptor) throws { _ = try read(AMDGPUImages(directory: images)) }

    package func beginRestore() throws {
        let images = try self.images()
        (processes, madeNodes) = try read(images)
        if !processes.isEmpty { try checkDriver() }
        for process in processes.values { for (old, new) in process.match.sorted(by: { $0.key < $1.key }) where old != new { session?.log.info("task \(process.task): GPU \(GPUMatch.hexadecimal(old)) becomes \(GPUMatch.hexadecimal(new))") } }
    }

    /// The images, with the match of their GPUs.
    private func read(_ images: AMDGPUImages) throws -> ([UInt32: Restored], [UInt32: (gpu: KfdDeviceEntry, file: FileDescriptor?)]) {
        let here = try topology()
        var processes: [UInt32: Restored] = [:], nodes: [UInt32: (gpu: KfdDeviceEntry, file: FileDescriptor?)] = [:], matches: [UInt32: UInt32] = [:]
        do {
            for id in try images.ids("amdgpu-kfd-") {
                let image = try images.process(id), match = try GPUMatch.find(from: GPUTopology(image.deviceEntries), to: here, settings.checks)
                processes[id] = Restored(id, image, match)
                matches.merge(match) { first, _ in first }
            }
            for id in try images.ids("amdgpu-renderD-") {
                let name = AMDGPUImages.Name.renderNode(id), image = try images.read(CriuRenderNode.self, name)
                guard let new = matches[image.gpuID], let gpu = here.gpu(new) else { throw AMDGPUImages.Damage(name, "no process in the images has its GPU \(GPUMatch.hexadecimal(image.gpuID))") }
                nodes[id] = (gpu, nil)
            }
        } catch {
            if let error = error as? SyscallError { throw error }
            throw self.error("finds that \(error)")
        }
        return (processes, nodes)
    }

    /// Render nodes first: a process's GPUs are reached through those that it has open itself.
    package func restoreFile(id: UInt32) throws -> RestoredByPlugin? {
        if let node = madeNodes[id] {
            let file = try open(node.gpu)
            madeNodes[id]?.file = file
            return .made(file)
        }
        guard let process = processes[id] else { return nil }
        if madeNodes.values.contains(where: { $0.file == nil }) { return .later }
        return .made(try restore(process))
    }

    private func restore(_ process: Restored) throws -> FileDescriptor {
        guard let task = session?.task(process.task) else { throw error("finds no task \(process.task) in the tree, to which \(AMDGPUImages.Name.process(process.id)) belongs") }
        let here = try topology(), mine = session?.files(process.task) ?? []
        let old = GPUTopology(process.image.deviceEntries).gpus
        for gpu in old {
            guard let new = process.match[gpu.gpuID].flatMap({ here.gpu($0) }) else { continue }
            let own = madeNodes.first { mine.contains($0.key) && $0.value.gpu.gpuID == new.gpuID }?.value.file
            process.nodes[gpu.gpuID] = try own ?? open(new)
        }
        let (kfd, buffers, memory) = try give(process, to: task, old.map(\.gpuID))
        (process.kfd, process.buffers) = (kfd, buffers)
        for gpu in old {
            guard let new = process.match[gpu.gpuID].flatMap({ here.gpu($0) }) else { continue }
            let full = buffers.enumerated().filter { $0.element.gpu == gpu.gpuID && $0.element.hasContent }
            let file = try images().contents(process.id, gpu.gpuID, full.reduce(0) { $0 + $1.element.size })
            var place = AMDGPUImages.contentStart
            for (index, buffer) in full {
                guard let target = memory[index] else { throw error("got no memory for the buffer at \(GPUMatch.hexadecimal(buffer.address)) of task \(process.task)") }
                try about("fill", buffer, process.task) { try copier(new).load(target, buffer.size, from: file, at: place) }
                place += buffer.size
            }
        }
        return kfd
    }

    /// Has the process open /dev/kfd and make the call. What it needs for that is gone from it afterwards.
    private func give(_ process: Restored, to task: any RestoredTask, _ gpus: [UInt32]) throws -> (kfd: FileDescriptor, [KFD.Buffer], memory: [Int: FileDescriptor]) {
        let image = process.image, grafted = task.grafted, memory = RemoteMemory(of: task.pid), pidfd = try FileDescriptor.process(task.pid)
        let nodes = try task.receive(gpus.map { process.nodes[$0]! })
        let size = (KFD.restoreSize(devices: gpus.count, buffers: image.boEntries.count, privateBytes: image.privData.count) + 4095) & ~4095
        var opening = grafted.batch()
        let open = opening.call("openat(\(Self.device))", SYS_openat, .init(AT_FDCWD), opening.string(Self.device), .init(O_RDWR | O_CLOEXEC), 0)
        let map = opening.call("mmap", SYS_mmap, 0, .init(size), 3, .init(0x22), .init(-1), 0)
        try grafted.run(&opening)
        let number = opening.result(open), address = UInt64(opening.result(map))
        let devices = zip(gpus, nodes).map { KFD.Device(userID: $0, actualID: process.match[$0]!, renderNode: $1) }
        let call = KFD.restoreCall(devices, image.boEntries.map(KFD.Buffer.init), objects: image.numOfObjects, privateData: [UInt8](image.privData), at: address)
        try memory.write(call.bytes, at: address)
        var asking = grafted.batch()
        let ask = asking.call("ioctl(AMDKFD_IOC_CRIU_OP, RESTORE)", SYS_ioctl, .init(number), .init(call.request), .init(call.arguments), mayFail: true)
        try grafted.run(&asking)
        if asking.result(ask) < 0 {
            let errno = Int32(-asking.result(ask)), count = try topology().gpus.count
            throw error("can't restore task \(process.task)'s state on its GPUs: ioctl(AMDKFD_IOC_CRIU_OP, RESTORE): \(Errno(errno))"
                + (errno == EINVAL && count != gpus.count ? "; there are \(count) GPUs, and the driver wants to see as many as the process had: \(gpus.count)" : ""))
        }
        let buffers = KFD.Block(bytes: try memory.read(address, call.bytes.count), devices: gpus.count, buffers: image.boEntries.count).buffers
        let kfd = try FileDescriptor.duplicate(Int32(number), ofProcess: pidfd)
        var filled: [Int: FileDescriptor] = [:]
        for (index, buffer) in buffers.enumerated() where buffer.memory >= 0 { filled[index] = try FileDescriptor.duplicate(buffer.memory, ofProcess: pidfd) }
        var closing = grafted.batch()
        closing.call("munmap", SYS_munmap, .init(address), .init(size))
        let lent: [Int32] = nodes + [Int32(number)] + buffers.map(\.memory).filter { $0 >= 0 }
        for number in lent {
            if closing.room == 0 {
                try grafted.run(&closing)
                closing = grafted.batch()
            }
            closing.call("close", SYS_close, .init(number))
        }
        try grafted.run(&closing)
        return (kfd, buffers, filled)
    }

    /// To where the buffer is now, through the file that the process reaches its GPU by.
    package func update(mappingOf path: String, address: UInt64, offset: UInt64, of process: ThreadID) throws -> UpdatedMapping? {
        let isKFD = path == Self.device
        guard isKFD || path.hasPrefix(Self.renderNode), let owner = processes.values.first(where: { $0.task == process }) else { return nil }
        if isKFD {
            let buffer = owner.buffers.first { $0.isOfKFD && $0.offset == offset }
            return UpdatedMapping(offset: buffer?.restoredOffset ?? offset, file: owner.kfd)  // pages of events stay where they are
        }
        let gpu = UInt32(path.dropFirst(Self.renderNode.count)).flatMap { GPUTopology(owner.image.deviceEntries).gpu(atMinor: $0) }
        guard let gpu, let buffer = owner.buffers.first(where: { $0.gpu == gpu.gpuID && $0.hasContent && offset >= $0.offset && offset - $0.offset < $0.size }) else {
            throw error("finds no saved buffer behind the mapping of \(path) at \(GPUMatch.hexadecimal(address)) of task \(process)")
        }
        return UpdatedMapping(offset: buffer.restoredOffset + (offset - buffer.offset), file: owner.nodes[gpu.gpuID])
    }

    package func resumeDevices(of process: ThreadID) throws {
        guard let owner = processes.values.first(where: { $0.task == process }), let kfd = owner.kfd else { return }
        do throws(SyscallError) { try KFD.resume(kfd, process) } catch { throw self.error("can't let the GPU queues of task \(process) run: \(error)") }
    }

    // MARK: the machine

    private func images() throws -> AMDGPUImages {
        guard let session else { preconditionFailure("a hook before the beginning") }
        return AMDGPUImages(directory: session.images)
    }
    private func topology() throws -> GPUTopology {
        do throws(SyscallError) { return try GPUTopology() } catch { throw self.error("can't read the machine's GPUs: \(error)") }
    }
    private func open(_ gpu: KfdDeviceEntry) throws -> FileDescriptor { try FileDescriptor.open("\(Self.renderNode)\(gpu.drmRenderMinor)", O_RDWR) }
    private func copier(_ gpu: KfdDeviceEntry) throws -> GPUCopier {
        if let found = copiers[gpu.gpuID] { return found }
        let made = try GPUCopier(minor: gpu.drmRenderMinor, capacity: settings.capacity)
        copiers[gpu.gpuID] = made
        return made
    }
    /// Since 1.8 all contents can be copied; 1.7 was the first that knows CRIU.
    private func checkDriver() throws {
        let version: (major: UInt32, minor: UInt32)
        do throws(SyscallError) { version = try KFD.version(try FileDescriptor.open(Self.device, O_RDWR)) } catch { throw self.error("can't ask the driver for its version: \(error)") }
        guard version.major == 1, version.minor >= 8 else { throw error("needs amdkfd 1.8 or later (Linux 5.18); this one is \(version.major).\(version.minor)") }
    }
    private func about(_ action: String, _ buffer: KFD.Buffer, _ task: ThreadID, _ body: () throws -> Void) throws {
        do { try body() } catch { throw self.error("can't \(action) the \(buffer.size) bytes at \(GPUMatch.hexadecimal(buffer.address)) on GPU \(GPUMatch.hexadecimal(buffer.gpu)) of task \(task): \(error)") }
    }
    private func error(_ what: String) -> PluginError { PluginError(name, what) }
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
