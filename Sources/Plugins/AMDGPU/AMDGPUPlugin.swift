package import Kinds
package import Linux

/// Processes that compute on AMD GPUs (ROCm, /dev/kfd), through what the driver amdkfd offers for CRIU (`KFD`):
///
/// - `GPUDump`: when the tree stands, each process's queues are stopped. With its /dev/kfd, all that it has there is saved: buffers with their contents, and queues, events and ranges of
///   shared memory in an account that only the driver reads. The queues run on when the tree does, whatever happens in between;
/// - `GPURestore`: each GPU gets its match (`GPUMatch`). The process opens /dev/kfd and gives the driver the account back; contents are filled in, mappings of device memory lead to where
///   the buffers are now. The process goes on knowing its GPUs by their old ids.
///
/// The images are those of CRIU's plugin of the same name.
package final class AMDGPUPlugin: Plugin {
    package static let name = "amdgpu_plugin"
    package var name: String { Self.name }
    package let hooks: Set<PluginHook> = [.checkpointDevices, .dumpFile, .claimMapping, .dumpDevicesLate, .beginRestore, .restoreFile, .updateMapping, .resumeDevices]

    private let settings: AMDGPUSettings
    private let isThere = GPUMachine.isThere
    private var session: PluginSession?
    private var dump: GPUDump?
    private var restore: GPURestore?

    package init(_ settings: AMDGPUSettings = AMDGPUSettings()) { self.settings = settings }

    package var obstacle: String? { isThere ? nil : "this machine has no \(GPUMachine.driver), the device of AMD's compute driver" }
    package var remedy: String? { isThere ? nil : "run stasis where \(GPUMachine.driver) is the driver's device, as it is for the process" }
    package func mayTake(_ hook: PluginHook, _ name: String) -> Bool { isThere && (hook == .dumpFile || hook == .claimMapping) && Self.isOurs(name) }
    private static func isOurs(_ path: String) -> Bool { path == GPUMachine.driver || path.hasPrefix(GPUMachine.renderNode) }

    package func begin(_ stage: PluginStage, _ session: PluginSession) throws -> Bool {
        guard isThere, stage != .restore || session.needs(name) else { return false }
        for text in settings.ignored { session.log.warn("ignored: \(text)") }
        self.session = session
        return true
    }
    package func end(_ stage: PluginStage, _ ending: PluginEnding) throws {
        defer { (session, dump, restore) = (nil, nil, nil) }
        if ending.treeRuns { try dump?.letRun() } else { dump?.forget() }
    }

    // MARK: dump

    private func dumping() -> GPUDump {
        if let dump { return dump }
        guard let session else { preconditionFailure("a hook before the beginning") }
        let made = GPUDump(GPUMachine(capacity: settings.capacity), AMDGPUImages(directory: session.images), session.log)
        dump = made
        return made
    }
    /// Before descriptors and memory are looked at: from here on no GPU changes what is saved.
    package func checkpointDevices(of process: ThreadID) throws { try dumping().stop(process) }

    package func dump(file: FileDescriptor, id: UInt32, of process: ThreadID) throws -> Bool {
        let path = try Files.link(file.procPath)
        guard Self.isOurs(path) else { return false }
        if path == GPUMachine.driver { try dumping().save(file, id: id, of: process) } else if try !dumping().save(renderNode: path, id: id, of: process) { return false }
        session?.use(name)
        return true
    }
    /// Its content is that of a buffer.
    package func claims(mappingOf device: FileDescriptor) throws -> Bool { Self.isOurs(try Files.link(device.procPath)) }

    package func dumpDevicesLate(of process: ThreadID) throws { try dump?.finish() }

    // MARK: restore

    private func restoring(from images: FileDescriptor) throws -> GPURestore { try GPURestore(GPUMachine(capacity: settings.capacity), AMDGPUImages(directory: images), settings.checks) }

    package func check(_ images: FileDescriptor) throws { _ = try restoring(from: images) }

    package func beginRestore() throws {
        guard let session else { return }
        let made = try restoring(from: session.images)
        try made.begin(session.log)
        restore = made
    }
    package func restoreFile(id: UInt32) throws -> RestoredByPlugin? { try session.flatMap { try restore?.restoreFile(id, $0) } }

    package func update(mappingOf path: String, address: UInt64, offset: UInt64, of process: ThreadID) throws -> UpdatedMapping? {
        Self.isOurs(path) ? try restore?.place(ofMapping: path, address, offset, of: process) : nil
    }
    package func resumeDevices(of process: ThreadID) throws { try restore?.letRun(process) }
}
