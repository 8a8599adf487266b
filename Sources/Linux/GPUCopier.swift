import CLinux
import Glibc

/// Copies between a buffer of an AMD GPU, which the CPU may not be able to reach, and a file: the GPU's own copy engine (SDMA) moves it from or to memory that both reach,
/// a piece at a time. Through a render node that is ours alone (drm/amdgpu_drm.h; libdrm is not needed).
public final class GPUCopier {
    private let node: FileDescriptor
    private let context: UInt32
    private let commands: MappedMemory, memory: MappedMemory

    /// Memory of the system that GPU and CPU reach.
    private struct MappedMemory { let handle: UInt32, address: UInt64, here: MappedFile }
    /// In the GPU's address space, which is ours with the node.
    private enum Place { static let commands: UInt64 = 1 << 32, memory: UInt64 = 1 << 33, buffer: UInt64 = 1 << 40 }
    /// Families whose engine takes the packets below: from Vega (GFX9, AMDGPU_FAMILY_AI) to before GFX12.
    private static let families: Range<UInt32> = 141..<152
    /// The engine's limit is 4 MiB for one packet (sdma_v4_0_buffer_funcs).
    private static let mostAtOnce = 2 << 20

    /// - Parameter capacity: bytes of memory that copies go through.
    public init(minor: UInt32, capacity: Int) throws(SyscallError) {
        node = try FileDescriptor.open("/dev/dri/renderD\(minor)", O_RDWR)
        let family: UInt32 = try Self.deviceInfo(node).word(at: 16)
        guard Self.families.contains(family) else { throw SyscallError("copying by GPU family \(family)", .path("/dev/dri/renderD\(minor)"), ENOTSUP) }
        var allocation = [UInt8](repeating: 0, count: 16)
        allocation.put(1 as UInt32, at: 0)  // AMDGPU_CTX_OP_ALLOC_CTX
        try Self.call(node, .context, &allocation)
        context = allocation.word(at: 0)
        let size = max(4096, capacity & ~4095)
        commands = try Self.allocate(node, 4096, at: Place.commands)
        memory = try Self.allocate(node, size, at: Place.memory)
    }

    /// From the buffer into the file.
    public func save(_ buffer: FileDescriptor, _ size: UInt64, to file: FileDescriptor, at offset: UInt64) throws(SyscallError) {
        try through(buffer, size) { piece throws(SyscallError) in
            try copy(Place.buffer + piece.lowerBound, Place.memory, piece.count)
            try memory.here.write(0..<piece.count, to: file, at: offset + piece.lowerBound)
        }
    }
    public func load(_ buffer: FileDescriptor, _ size: UInt64, from file: FileDescriptor, at offset: UInt64) throws(SyscallError) {
        try through(buffer, size) { piece throws(SyscallError) in
            try memory.here.fill(0..<piece.count, from: file, at: offset + piece.lowerBound)
            try copy(Place.memory, Place.buffer + piece.lowerBound, piece.count)
        }
    }

    private func through(_ buffer: FileDescriptor, _ size: UInt64, _ body: (Range<UInt64>) throws(SyscallError) -> Void) throws(SyscallError) {
        var prime = [UInt8](repeating: 0, count: 12)
        prime.put(buffer.number, at: 8)
        try Self.call(node, .bufferHandle, &prime)
        let handle: UInt32 = prime.word(at: 0)
        defer {
            var close = little32(handle) + little32(0)
            try? Self.call(node, .close, &close)
        }
        let mapped = (size + 4095) & ~4095
        try Self.place(node, handle, Place.buffer, mapped, .map)
        defer { try? Self.place(node, handle, Place.buffer, mapped, .unmap) }
        inUse = handle
        var done: UInt64 = 0
        while done < size {
            let piece = done..<min(size, done + UInt64(memory.here.count))
            try body(piece)
            done = piece.upperBound
        }
    }
    private var inUse: UInt32 = 0

    // MARK: the engine

    /// SDMA_OP_COPY, linear: header, bytes less one, 0, source, destination (sdma_v4_0_emit_copy_buffer).
    private func copy(_ source: UInt64, _ destination: UInt64, _ count: Int) throws(SyscallError) {
        var packets = [UInt8](), done = 0
        while done < count {
            let size = min(Self.mostAtOnce, count - done)
            packets += little32(1) + little32(UInt32(size - 1)) + little32(0) + little64(source + UInt64(done)) + little64(destination + UInt64(done))
            done += size
            if packets.count + 28 > commands.here.count || done == count {
                packets += [UInt8](repeating: 0, count: -packets.count & 31)  // NOPs
                commands.here.write(packets, at: 0)
                try run(packets.count)
                packets = []
            }
        }
    }

    /// Submits the commands and waits for their end.
    private func run(_ count: Int) throws(SyscallError) {
        // union drm_amdgpu_cs; two chunk addresses; two chunks; drm_amdgpu_bo_list_in with its entries; drm_amdgpu_cs_chunk_ib
        let submission = 0, chunkAddresses = 24, chunks = 40, list = 72, entries = 96, commandsChunk = 120
        var block = [UInt8](repeating: 0, count: 152)
        let node = node.number, context = context, handles = [commands.handle, memory.handle, inUse]
        let result: Int = unsafe block.withUnsafeMutableBytes { buffer in
            let base = UInt64(UInt(bitPattern: buffer.baseAddress!))
            var bytes = [UInt8](repeating: 0, count: buffer.count)
            bytes.put([context, 0, 2, 0], at: submission)
            bytes.put(base + UInt64(chunkAddresses), at: submission + 16)
            bytes.put([base + UInt64(chunks), base + UInt64(chunks) + 16], at: chunkAddresses)
            bytes.put([6, 6] as [UInt32], at: chunks)  // AMDGPU_CHUNK_ID_BO_HANDLES, its length in words
            bytes.put(base + UInt64(list), at: chunks + 8)
            bytes.put([1, 8] as [UInt32], at: chunks + 16)  // AMDGPU_CHUNK_ID_IB
            bytes.put(base + UInt64(commandsChunk), at: chunks + 24)
            bytes.put([.max, .max, UInt32(handles.count), 8] as [UInt32], at: list)
            bytes.put(base + UInt64(entries), at: list + 16)
            for (index, handle) in handles.enumerated() { bytes.put(handle, at: entries + 8 * index) }
            bytes.put(Place.commands, at: commandsChunk + 8)
            bytes.put([UInt32(count), 2 /* AMDGPU_HW_IP_DMA */, 0, 0], at: commandsChunk + 16)
            unsafe buffer.copyBytes(from: bytes)
            return unsafe Syscall.raw(SYS_ioctl, Int(node), Int(Request.submit.number), Int(bitPattern: UInt(base)))
        }
        if result < 0 { throw SyscallError("ioctl(\(Request.submit.name))", .fd(node), Int32(-result)) }
        let sequence: UInt64 = block.word(at: submission)
        var wait = [UInt8](repeating: 0, count: 32)
        wait.put([sequence, Clock.monotonic() + Self.patience], at: 0)
        wait.put([2, 0, 0, context] as [UInt32], at: 16)
        try Self.call(self.node, .wait, &wait)
        if wait.word(UInt64.self, at: 0) != 0 { throw SyscallError("a copy by the GPU", .fd(node), ETIMEDOUT) }
    }
    /// Nanoseconds for a piece.
    private static let patience: UInt64 = 10_000_000_000

    // MARK: memory

    private static func allocate(_ node: FileDescriptor, _ size: Int, at address: UInt64) throws(SyscallError) -> MappedMemory {
        var creation = [UInt8](repeating: 0, count: 32)
        creation.put([UInt64(size), 4096, 2 /* AMDGPU_GEM_DOMAIN_GTT */, 0], at: 0)
        try call(node, .create, &creation)
        let handle: UInt32 = creation.word(at: 0)
        var mapping = little32(handle) + little32(0)
        try call(node, .mappingOffset, &mapping)
        let here = try MappedFile(node, count: size, at: mapping.word(at: 0))
        try place(node, handle, address, UInt64(size), .map)
        return MappedMemory(handle: handle, address: address, here: here)
    }
    private enum Placing: UInt32 { case map = 1, unmap }
    private static func place(_ node: FileDescriptor, _ handle: UInt32, _ address: UInt64, _ size: UInt64, _ operation: Placing) throws(SyscallError) {
        var bytes = [UInt8](repeating: 0, count: 40)
        bytes.put([handle, 0, operation.rawValue, 2 | 4 | 8 /* AMDGPU_VM_PAGE_READABLE, _WRITEABLE, _EXECUTABLE */], at: 0)
        bytes.put([address, 0, size], at: 16)
        try call(node, .place, &bytes)
    }
    private static func deviceInfo(_ node: FileDescriptor) throws(SyscallError) -> [UInt8] {
        var answer = [UInt8](repeating: 0, count: 64)
        let result: Int = unsafe answer.withUnsafeMutableBytes { buffer in
            var bytes = [UInt8](repeating: 0, count: 32)
            bytes.put(UInt64(UInt(bitPattern: buffer.baseAddress!)), at: 0)
            bytes.put([UInt32(buffer.count), 0x16 /* AMDGPU_INFO_DEV_INFO */], at: 8)
            return unsafe bytes.withUnsafeMutableBytes { unsafe Syscall.raw(SYS_ioctl, Int(node.number), Int(Request.info.number), Int(bitPattern: $0.baseAddress!)) }
        }
        if result < 0 { throw SyscallError("ioctl(\(Request.info.name))", .fd(node.number), Int32(-result)) }
        return answer
    }

    /// The calls: of type 'd', with the direction and size that their structures give them.
    private enum Request: UInt {
        case close = 0x4008_6409, bufferHandle = 0xc00c_642e, create = 0xc020_6440, mappingOffset = 0xc008_6441, context = 0xc010_6442, submit = 0xc018_6444
        case info = 0x4020_6445, place = 0x4028_6448, wait = 0xc020_6449
        var number: UInt { rawValue }
        var name: String {
            switch self {
            case .close: "GEM_CLOSE"
            case .bufferHandle: "PRIME_FD_TO_HANDLE"
            case .create: "AMDGPU_GEM_CREATE"
            case .mappingOffset: "AMDGPU_GEM_MMAP"
            case .context: "AMDGPU_CTX"
            case .submit: "AMDGPU_CS"
            case .info: "AMDGPU_INFO"
            case .place: "AMDGPU_GEM_VA"
            case .wait: "AMDGPU_WAIT_CS"
            }
        }
    }
    private static func call(_ node: FileDescriptor, _ request: Request, _ bytes: inout [UInt8]) throws(SyscallError) {
        try Syscall.call("ioctl(\(request.name))", SYS_ioctl, bytes: &bytes, at: 2, Int(node.number), Int(request.number), on: .fd(node.number))
    }
}
@available(*, unavailable) extension GPUCopier: Sendable {}
