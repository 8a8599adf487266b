import Glibc
import ImageMessages
import Linux
import SwiftProtobuf

/// The images of CRIU's amdgpu plugin: 8 bytes of length, then the message, or the buffers' contents one behind the other in the order of their entries. Ids are those of files.img.
struct AMDGPUImages {
    let directory: FileDescriptor

    enum Name {
        static func process(_ id: UInt32) -> String { "amdgpu-kfd-\(id).img" }
        static func renderNode(_ id: UInt32) -> String { "amdgpu-renderD-\(id).img" }
        /// - Parameter gpu: by the id that the process knows it by.
        static func contents(_ id: UInt32, _ gpu: UInt32) -> String {
            let digits = String(gpu, radix: 16)
            return "amdgpu-pages-\(id)-\(String(repeating: "0", count: max(0, 4 - digits.count)))\(digits).img"
        }
    }
    private static let lengthBytes = 8
    /// Of a message; the driver's own account of a process's queues may be large.
    private static let mostBytes: UInt64 = 1 << 30

    func has(_ name: String) -> Bool { (try? Files.status(name, at: directory.number)) != nil }
    /// The ids of processes or render nodes.
    func ids(_ prefix: String) throws(SyscallError) -> [UInt32] {
        try Files.names(in: ".", at: directory.number).filter { $0.hasPrefix(prefix) && $0.hasSuffix(".img") }.compactMap { UInt32($0.dropFirst(prefix.count).dropLast(4)) }.sorted()
    }

    func write(_ message: some Message, _ name: String) throws {
        let bytes: [UInt8] = try message.serializedBytes()
        let file = try create(name, UInt64(bytes.count))
        try file.write(bytes)
    }
    func read<Value: Message>(_ type: Value.Type, _ name: String) throws -> Value {
        let file = try open(name)
        let length = try self.length(file, name)
        guard length <= Self.mostBytes else { throw Damage(name, "it says that it has \(length) bytes") }
        let bytes = try file.read(Int(length), at: Self.lengthBytes)
        guard bytes.count == Int(length) else { throw Damage(name, "it ends after \(bytes.count) of \(length) bytes") }
        do { return try Value(serializedBytes: bytes) } catch { throw Damage(name, "it is no \(Value.protoMessageName)") }
    }

    /// What a process had, with numbers that can be right.
    func process(_ id: UInt32) throws -> CriuKfd {
        let name = Name.process(id), image = try read(CriuKfd.self, name)
        let gpus = image.deviceEntries.filter(\.isGPU).map(\.gpuID)
        guard !gpus.isEmpty, gpus.count <= 64, Set(gpus).count == gpus.count else { throw Damage(name, "its \(gpus.count) GPUs are none, too many, or one twice") }
        guard image.boEntries.count <= 1 << 18 else { throw Damage(name, "it has \(image.boEntries.count) buffers") }
        for buffer in image.boEntries {
            let place = "its buffer at \(GPUMatch.hexadecimal(buffer.addr))"
            guard gpus.contains(buffer.gpuID) else { throw Damage(name, "\(place) is of no GPU in it") }
            guard buffer.size <= 1 << 44 else { throw Damage(name, "\(place) has \(buffer.size) bytes") }
        }
        return image
    }

    /// A new file of contents; they begin at `contentStart`.
    func create(_ name: String, _ length: UInt64) throws(SyscallError) -> FileDescriptor {
        let file = try FileDescriptor.open(name, O_RDWR | O_CREAT | O_TRUNC, mode: 0o600, at: directory.number)
        try file.write(little64(length))
        return file
    }
    /// Contents of buffers, as many bytes as they need.
    func contents(_ id: UInt32, _ gpu: UInt32, _ bytes: UInt64) throws -> FileDescriptor {
        let name = Name.contents(id, gpu), file = try open(name), length = try self.length(file, name)
        guard length == bytes, try file.status().size == Int64(Self.lengthBytes) + Int64(bytes) else { throw Damage(name, "it does not have the \(bytes) bytes of the buffers") }
        return file
    }
    static let contentStart = UInt64(lengthBytes)

    private func open(_ name: String) throws(SyscallError) -> FileDescriptor { try FileDescriptor.open(name, O_RDONLY, at: directory.number) }
    private func length(_ file: FileDescriptor, _ name: String) throws -> UInt64 {
        let head = try file.read(Self.lengthBytes, at: 0)
        guard head.count == Self.lengthBytes else { throw Damage(name, "it is cut short") }
        return head.word(at: 0)
    }

    struct Damage: Error, CustomStringConvertible {
        let description: String
        init(_ name: String, _ cause: String) { description = "the image \(name) is damaged: \(cause)" }
    }
}
