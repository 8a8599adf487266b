import CLinux
import Glibc

/// What the kernel says of a BPF map: struct bpf_map_info (include/uapi/linux/bpf.h).
public struct BPFMapInfo: Equatable, Sendable {
    public var type: UInt32, id: UInt32, keySize: UInt32, valueSize: UInt32, maximum: UInt32, flags: UInt32
    public var name: String, interface: UInt32, extra: UInt64
    public init(type: UInt32, id: UInt32, keySize: UInt32, valueSize: UInt32, maximum: UInt32, flags: UInt32, name: String, interface: UInt32, extra: UInt64) {
        (self.type, self.id, self.keySize, self.valueSize, self.maximum, self.flags) = (type, id, keySize, valueSize, maximum, flags)
        (self.name, self.interface, self.extra) = (name, interface, extra)
    }
}

/// BPF maps through bpf(2). Descriptors refer to maps.
public enum BPFMap {
    private static let readOnly: UInt32 = 1 << 3, writeOnly: UInt32 = 1 << 4  // BPF_F_RDONLY, BPF_F_WRONLY

    public static func info(of map: FileDescriptor) throws(SyscallError) -> BPFMapInfo {
        var bytes = [UInt8](repeating: 0, count: 128)
        let number = map.number
        try Syscall.check("bpf(BPF_OBJ_GET_INFO_BY_FD)", .fd(number)) {
            unsafe bytes.withUnsafeMutableBytes { buffer in
                BPF.command(15, [little32(UInt32(bitPattern: number)), little32(UInt32(buffer.count)), little64(UInt64(UInt(bitPattern: buffer.baseAddress)))])
            }
        }
        // six words, 16 bytes of name, ifindex, a type id, u64 netns_dev and netns_ino, four words of BTF, u64 map_extra
        return BPFMapInfo(
            type: bytes.word(at: 0), id: bytes.word(at: 4), keySize: bytes.word(at: 8), valueSize: bytes.word(at: 12), maximum: bytes.word(at: 16), flags: bytes.word(at: 20),
            name: String(decoding: bytes[24..<40].prefix { $0 != 0 }, as: UTF8.self), interface: bytes.word(at: 40), extra: bytes.word(at: 80))
    }

    /// A new map; `id` is the kernel's choice.
    public static func create(_ info: BPFMapInfo) throws(SyscallError) -> FileDescriptor {
        let name = Array(info.name.utf8.prefix(15))
        let words = [info.type, info.keySize, info.valueSize, info.maximum, info.flags, 0, 0].map { little32($0) }
        let tail = [little32(info.interface), little32(0), little32(0), little32(0), little32(0), little64(info.extra)]
        return FileDescriptor(owning: Int32(try Syscall.check("bpf(BPF_MAP_CREATE)") {
            BPF.command(0, words + [name + [UInt8](repeating: 0, count: 16 - name.count)] + tail)
        }))
    }

    /// Another open file of the map with that id, with the access mode of `flags` (open(2)).
    public static func open(id: UInt32, flags: UInt32) throws(SyscallError) -> FileDescriptor {
        let mode = switch flags & 3 { case 0: readOnly; case 1: writeOnly; default: 0 as UInt32 }
        return FileDescriptor(owning: Int32(try Syscall.check("bpf(BPF_MAP_GET_FD_BY_ID)") { BPF.command(14, [little32(id), little32(0), little32(mode)]) }))
    }

    /// No program may change it from user space any more.
    public static func freeze(_ map: FileDescriptor) throws(SyscallError) {
        let number = map.number
        try Syscall.check("bpf(BPF_MAP_FREEZE)", .fd(number)) { BPF.command(22, [little32(UInt32(bitPattern: number))]) }
    }

    /// Everything in it: keys one behind the other, and values.
    /// - Parameter valueSize: of a map with values for each CPU that of all of them together.
    public static func content(of map: FileDescriptor, _ info: BPFMapInfo, valueSize: Int) throws(SyscallError) -> (keys: [UInt8], values: [UInt8], count: Int) {
        var keys = [UInt8](repeating: 0, count: Int(info.maximum) * Int(info.keySize)), values = [UInt8](repeating: 0, count: Int(info.maximum) * valueSize)
        var cursor = [UInt8](repeating: 0, count: max(Int(info.keySize), 8))
        // All at once: maximum elements are always enough, and the kernel then says ENOENT for "no more".
        let count = try batch(24, "BPF_MAP_LOOKUP_BATCH", map, &cursor, &keys, &values, count: info.maximum)
        return (Array(keys.prefix(count * Int(info.keySize))), Array(values.prefix(count * valueSize)), count)
    }

    public static func update(_ map: FileDescriptor, keys: [UInt8], values: [UInt8], count: Int) throws(SyscallError) {
        var keys = keys, values = values, none = [UInt8]()
        _ = try batch(26, "BPF_MAP_UPDATE_BATCH", map, &none, &keys, &values, count: UInt32(count))
    }

    /// union bpf_attr, batch: in_batch, out_batch, keys, values, u32 count, u32 map, elem_flags, flags. The kernel changes `count`.
    private static func batch(
        _ number: Int, _ name: String, _ map: FileDescriptor, _ cursor: inout [UInt8], _ keys: inout [UInt8], _ values: inout [UInt8], count: UInt32
    ) throws(SyscallError) -> Int {
        let fd = map.number
        var done: UInt32 = 0
        let result = unsafe cursor.withUnsafeMutableBytes { cursor in
            unsafe keys.withUnsafeMutableBytes { keys in
                unsafe values.withUnsafeMutableBytes { values in
                    func address(_ buffer: UnsafeMutableRawBufferPointer) -> [UInt8] { little64(UInt64(UInt(bitPattern: buffer.baseAddress))) }
                    let parts = unsafe [little64(0), cursor.isEmpty ? little64(0) : address(cursor), address(keys), address(values), little32(count), little32(UInt32(bitPattern: fd)), little64(0), little64(0)]
                    var attribute = Array(parts.joined())
                    let answer = unsafe attribute.withUnsafeMutableBytes { unsafe Syscall.raw(SYS_bpf, number, Int(bitPattern: $0.baseAddress), $0.count) }
                    done = (0..<4).reduce(0) { $0 | UInt32(attribute[32 + $1]) << (8 * $1) }
                    return answer
                }
            }
        }
        if result < 0 && result != -Int(ENOENT) { throw SyscallError("bpf(\(name))", .fd(fd), Int32(-result)) }
        return Int(min(done, count))
    }
}
