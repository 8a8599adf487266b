import CLinux
import Glibc

/// AMD's driver for compute, /dev/kfd, as far as checkpoints need it (linux/kfd_ioctl.h, AMDKFD_IOC_CRIU_OP; drivers/gpu/drm/amd/amdkfd/kfd_chardev.c).
/// The file belongs to the process that opened it. That process may make these calls, and who traces it.
public enum KFD {
    private static let criuOperation: UInt = 0xc038_4b22, getVersion: UInt = 0x8008_4b01
    private enum Operation: UInt32 { case processInfo, checkpoint, unpause, restore, resume }

    /// What a process has: how many of each, and how long the driver's own account of it is.
    public struct Counts: Equatable, Sendable {
        public var devices: UInt32 = 0, buffers: UInt32 = 0, objects: UInt32 = 0, privateBytes: UInt64 = 0
        /// In its own pid namespace.
        public var process: Int32 = 0
        public init() {}
    }
    /// A GPU: the id that the process knows it by, and the machine's (they differ after a restore on another GPU).
    public struct Device: Equatable, Sendable {
        public var userID: UInt32, actualID: UInt32
        /// For a restore: the render node, open in the process.
        public var renderNode: Int32 = 0
        public init(userID: UInt32, actualID: UInt32, renderNode: Int32 = 0) { (self.userID, self.actualID, self.renderNode) = (userID, actualID, renderNode) }
    }
    public struct Buffer: Equatable, Sendable {
        public var address: UInt64, size: UInt64, gpu: UInt32, flags: UInt32
        /// For mmap(2) of the render node or, for doorbells and registers, of /dev/kfd.
        public var offset: UInt64
        /// The same after a restore.
        public var restoredOffset: UInt64 = 0
        /// The memory as a DMA buffer; -1 where there is none.
        public var memory: Int32 = -1
        public init(address: UInt64, size: UInt64, gpu: UInt32, flags: UInt32, offset: UInt64) {
            (self.address, self.size, self.gpu, self.flags, self.offset) = (address, size, gpu, flags, offset)
        }
        /// In the GPU's memory (KFD_IOC_ALLOC_MEM_FLAGS_VRAM) or in memory that the driver has (.._GTT): nobody else saves its content.
        public var hasContent: Bool { flags & 3 != 0 }
        /// Doorbells (8), remapped registers (16): no memory.
        public var isOfKFD: Bool { flags & 24 != 0 }
    }
    public struct Checkpoint {
        public let counts: Counts, devices: [Device], buffers: [Buffer], privateData: [UInt8]
        /// Those of `buffers`, by their place there.
        public let memory: [Int: FileDescriptor]
    }

    /// - Parameter kfd: opened by ourselves.
    public static func version(_ kfd: FileDescriptor) throws(SyscallError) -> (major: UInt32, minor: UInt32) {
        var words: (UInt32, UInt32) = (0, 0)
        try kfd.ioctl("AMDKFD_IOC_GET_VERSION", getVersion, &words)
        return words
    }

    /// Stops the queues of the process. They stand until `unpause`; a second call would make them stand forever.
    public static func pause(_ kfd: FileDescriptor) throws(SyscallError) -> Counts {
        var arguments = head(.processInfo, Counts())
        try call(kfd, "PROCESS_INFO", &arguments)
        return counts(arguments)
    }
    public static func unpause(_ kfd: FileDescriptor) throws(SyscallError) {
        var arguments = head(.unpause, Counts())
        try call(kfd, "UNPAUSE", &arguments)
    }
    /// After a restore: user memory is looked up and queues run.
    public static func resume(_ kfd: FileDescriptor, _ process: ThreadID) throws(SyscallError) {
        var counts = Counts()
        counts.process = process.rawValue
        var arguments = head(.resume, counts)
        try call(kfd, "RESUME", &arguments)
    }

    /// All that a paused process has. `counts` are those of `pause`.
    public static func checkpoint(_ kfd: FileDescriptor, _ counts: Counts) throws(SyscallError) -> Checkpoint {
        var block = Block(counts)
        try block.withAddress { address throws(SyscallError) in
            var arguments = head(.checkpoint, counts, block: address)
            try call(kfd, "CHECKPOINT", &arguments)
        }
        var memory: [Int: FileDescriptor] = [:]
        for (index, buffer) in block.buffers.enumerated() where buffer.memory >= 0 {
            memory[index] = FileDescriptor(owning: buffer.memory)
            try memory[index]?.control(F_SETFD, 1)
        }
        return Checkpoint(counts: counts, devices: block.devices, buffers: block.buffers, privateData: block.privateData, memory: memory)
    }

    /// For the process itself, which must make this call of its own: its user memory becomes that of whoever calls. The block is then at `address`, and the arguments
    /// behind it. Answers ioctl(2)'s number of the request, and all these bytes; `Block(bytes:)` reads the block again.
    public static func restoreCall(_ devices: [Device], _ buffers: [Buffer], objects: UInt32, privateData: [UInt8], at address: UInt64) -> (request: UInt64, bytes: [UInt8], arguments: UInt64) {
        var counts = Counts()
        (counts.devices, counts.buffers, counts.objects, counts.privateBytes) = (UInt32(devices.count), UInt32(buffers.count), objects, UInt64(privateData.count))
        let block = Block(devices, buffers, privateData)
        return (UInt64(criuOperation), block.bytes + head(.restore, counts, block: address), address + UInt64(block.bytes.count))
    }
    public static func restoreSize(devices: Int, buffers: Int, privateBytes: Int) -> Int { Block.size(devices, buffers, privateBytes) + argumentsSize }

    // MARK: layout

    private static let argumentsSize = 56, deviceSize = 16, bufferSize = 48

    /// struct kfd_ioctl_criu_args, with the block's parts where it is.
    private static func head(_ operation: Operation, _ counts: Counts, block: UInt64 = 0) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: argumentsSize)
        if block != 0 {
            let buffers = block + UInt64(Int(counts.devices) * deviceSize)
            bytes.put([block, buffers, buffers + UInt64(Int(counts.buffers) * bufferSize)], at: 0)
        }
        bytes.put(counts.privateBytes, at: 24)
        bytes.put([counts.devices, counts.buffers, counts.objects, UInt32(bitPattern: counts.process), operation.rawValue], at: 32)
        return bytes
    }
    private static func counts(_ arguments: [UInt8]) -> Counts {
        var counts = Counts()
        counts.privateBytes = arguments.word(at: 24)
        (counts.devices, counts.buffers, counts.objects) = (arguments.word(at: 32), arguments.word(at: 36), arguments.word(at: 40))
        counts.process = arguments.word(at: 44)
        return counts
    }
    private static func call(_ kfd: FileDescriptor, _ name: String, _ arguments: inout [UInt8]) throws(SyscallError) {
        try Syscall.call("ioctl(AMDKFD_IOC_CRIU_OP, \(name))", SYS_ioctl, bytes: &arguments, at: 2, Int(kfd.number), Int(criuOperation), on: .fd(kfd.number))
    }

    /// Arrays of kfd_criu_device_bucket and kfd_criu_bo_bucket, then the private data.
    public struct Block {
        public private(set) var bytes: [UInt8]
        private let deviceCount: Int, bufferCount: Int

        static func size(_ devices: Int, _ buffers: Int, _ privateBytes: Int) -> Int { devices * deviceSize + buffers * bufferSize + privateBytes }
        init(_ counts: Counts) {
            (deviceCount, bufferCount) = (Int(counts.devices), Int(counts.buffers))
            bytes = [UInt8](repeating: 0, count: Self.size(deviceCount, bufferCount, Int(counts.privateBytes)))
        }
        init(_ devices: [Device], _ buffers: [Buffer], _ privateData: [UInt8]) {
            (deviceCount, bufferCount) = (devices.count, buffers.count)
            bytes = devices.flatMap { device in [device.userID, device.actualID, UInt32(bitPattern: device.renderNode), 0].flatMap(little32) }
            for buffer in buffers {
                bytes += [buffer.address, buffer.size, buffer.offset, 0].flatMap(little64)
                bytes += [buffer.gpu, buffer.flags, UInt32(bitPattern: -1), 0].flatMap(little32)
            }
            bytes += privateData
        }
        public init(bytes: [UInt8], devices: Int, buffers: Int) { (self.bytes, deviceCount, bufferCount) = (bytes, devices, buffers) }

        public var devices: [Device] {
            (0..<deviceCount).map { Device(userID: bytes.word(at: $0 * deviceSize), actualID: bytes.word(at: $0 * deviceSize + 4)) }
        }
        public var buffers: [Buffer] {
            (0..<bufferCount).map { index in
                let at = deviceCount * deviceSize + index * bufferSize
                var buffer = Buffer(address: bytes.word(at: at), size: bytes.word(at: at + 8), gpu: bytes.word(at: at + 32), flags: bytes.word(at: at + 36), offset: bytes.word(at: at + 16))
                (buffer.restoredOffset, buffer.memory) = (bytes.word(at: at + 24), bytes.word(at: at + 40))
                return buffer
            }
        }
        var privateData: [UInt8] { Array(bytes[(deviceCount * deviceSize + bufferCount * bufferSize)...]) }

        fileprivate mutating func withAddress(_ body: (UInt64) throws(SyscallError) -> Void) throws(SyscallError) {
            if bytes.isEmpty { bytes = [0] }
            let outcome: Result<Void, SyscallError> = unsafe bytes.withUnsafeMutableBytes { buffer in
                let address = UInt64(UInt(bitPattern: buffer.baseAddress!))
                do throws(SyscallError) { return .success(try body(address)) } catch { return .failure(error) }
            }
            try outcome.get()
        }
    }
}
