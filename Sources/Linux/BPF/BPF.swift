import CLinux
import Glibc

/// bpf(2): its attribute is a union of structures, here made of their parts.
enum BPF {
    /// The answer as the kernel gives it: a descriptor or 0, or a negative errno.
    static func command(_ number: Int, _ parts: [[UInt8]]) -> Int {
        var attribute = Array(parts.joined())
        return unsafe attribute.withUnsafeMutableBytes { unsafe Syscall.raw(SYS_bpf, number, Int(bitPattern: $0.baseAddress), $0.count) }
    }

    /// Loads a program that walks kernel objects for who reads a descriptor (Documentation/bpf/bpf_iterators.rst).
    /// - Parameter function: BTF id of the iterator's function.
    /// - Parameter instructions: 8 bytes each (Documentation/bpf/standardization/instruction-set.rst).
    static func loadIterator(_ instructions: [UInt64], function: UInt32) throws(SyscallError) -> FileDescriptor {
        // The helpers of iterators are for programs whose license the kernel knows as compatible with its own.
        let license = Array("Dual MIT/GPL\0".utf8)
        return FileDescriptor(owning: Int32(try Syscall.check("bpf(BPF_PROG_LOAD)") {
            unsafe instructions.withUnsafeBufferPointer { instructions in
                unsafe license.withUnsafeBufferPointer { license in
                    command(5, [
                        little32(26 /* BPF_PROG_TYPE_TRACING */), little32(UInt32(instructions.count)), little64(UInt64(UInt(bitPattern: instructions.baseAddress))),
                        little64(UInt64(UInt(bitPattern: license.baseAddress))), [UInt8](repeating: 0, count: 44), little32(28 /* BPF_TRACE_ITER */),
                        [UInt8](repeating: 0, count: 36), little32(function),
                    ])
                }
            }
        }))
    }

    /// A descriptor to read what the iterator says of one task.
    static func iterate(_ program: FileDescriptor, task: ThreadID) throws(SyscallError) -> FileDescriptor {
        let target = little32(UInt32(bitPattern: task.rawValue)) + [UInt8](repeating: 0, count: 12)  // union bpf_iter_link_info, task
        let link = FileDescriptor(owning: Int32(try Syscall.check("bpf(BPF_LINK_CREATE)") {
            unsafe target.withUnsafeBufferPointer {
                command(28, [
                    little32(UInt32(bitPattern: program.number)), little32(0), little32(28 /* BPF_TRACE_ITER */), little32(0),
                    little64(UInt64(UInt(bitPattern: $0.baseAddress))), little32(UInt32($0.count)), little32(0),
                ])
            }
        }))
        return FileDescriptor(owning: Int32(try Syscall.check("bpf(BPF_ITER_CREATE)") { command(33, [little32(UInt32(bitPattern: link.number)), little32(0)]) }))
    }
}
