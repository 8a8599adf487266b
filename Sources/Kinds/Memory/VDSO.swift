import CLinux
import Glibc
import Linux

/// A vDSO (vdso(7)): the kernel's own little library, mapped into every process, of system calls that need no system call.
///
/// A program keeps addresses of its functions. Under another kernel these would lead into the middle of others, and the code would read another
/// layout of vvar. So the vDSO of the image stays where it was, as ordinary memory, and its functions lead on to this kernel's.
package struct VDSO: Equatable, Sendable {
    package struct Function: Equatable, Sendable { package let offset: UInt64, size: UInt64 }
    package let content: [UInt8]
    /// By name, "__vdso_clock_gettime" and its like.
    package let functions: [String: Function]

    /// - Parameter content: its pages. Nil for what is no 64-bit ELF library with symbols (elf(5)).
    package init?(_ content: [UInt8]) {
        guard content.count >= 64, content.starts(with: [0x7f, 0x45, 0x4c, 0x46, 2, 1]) else { return nil }
        func word(_ at: UInt64) -> UInt64 { content.word(at: Int(clamping: at)) }
        func half(_ at: UInt64) -> UInt32 { content.word(at: Int(clamping: at)) }
        let headers = word(32), size: UInt16 = content.word(at: 54), count: UInt16 = content.word(at: 56)
        var loaded: UInt64?, dynamic: Range<UInt64>?
        for index in 0..<UInt64(count) {
            let at = headers &+ index * UInt64(size)
            switch half(at) {
            case 1 where loaded == nil: loaded = word(at &+ 16)  // PT_LOAD
            case 2 where word(at &+ 40) < 1 << 16: dynamic = word(at &+ 8)..<(word(at &+ 8) &+ word(at &+ 40))  // PT_DYNAMIC
            default: break
            }
        }
        guard let loaded, let dynamic else { return nil }
        var strings: UInt64?, symbols: UInt64?, hash: UInt64?
        for at in stride(from: dynamic.lowerBound, to: dynamic.upperBound, by: 16) {
            switch word(at) {
            case 4: hash = word(at + 8) &- loaded
            case 5: strings = word(at + 8) &- loaded
            case 6: symbols = word(at + 8) &- loaded
            default: break
            }
        }
        guard let strings, let symbols else { return nil }
        // DT_HASH says how many symbols there are; where only DT_GNU_HASH is, the strings follow the symbols.
        let number = hash.map { UInt64(half($0 &+ 4)) } ?? (strings > symbols ? (strings - symbols) / 24 : 0)
        guard number > 0, number < 4096 else { return nil }
        var functions = [String: Function]()
        for index in 0..<number {
            let at = symbols &+ index * 24, kind = half(at &+ 4)
            let offset = word(at &+ 8) &- loaded, length = word(at &+ 16)
            guard kind & 0xf == 2, kind >> 16 != 0, offset < UInt64(content.count), length <= UInt64(content.count) - offset else { continue }  // STT_FUNC, not SHN_UNDEF
            let name = content.dropFirst(Int(clamping: strings &+ UInt64(half(at)))).prefix { $0 != 0 }
            functions[String(decoding: name, as: UTF8.self)] = Function(offset: offset, size: length)
        }
        guard !functions.isEmpty else { return nil }
        (self.content, self.functions) = (content, functions)
    }

    /// What this kernel gives to every process. Nil where it was started without one.
    package static let ofThisKernel: VDSO? = {
        guard let place = try? Mapping.all(of: .current, withFlags: false).first(where: { $0.name == "[vdso]" }),
            let memory = try? FileDescriptor.open("/proc/self/mem", O_RDONLY), let content = try? memory.read(Int(place.length), at: Int(place.start))
        else { return nil }
        return VDSO(content)
    }()

    /// Whether a thread whose next instruction is at `offset` goes on the same under any kernel: behind a system call, and outside.
    package func isIndependent(at offset: UInt64) -> Bool {
        guard offset < UInt64(content.count) else { return true }
        return offset >= 2 && content[Int(offset) - 2] == 0x0f && content[Int(offset) - 1] == 0x05
    }

    /// Where its first `syscall` instruction is.
    package var systemCall: UInt64? { content.indices.dropLast().first { content[$0] == 0x0f && content[$0 + 1] == 0x05 }.map(UInt64.init) }

    /// Its content at address `own`, with every function that time or place of the kernel changes led on: to the function of that name in
    /// `other` at address `place`, or, where there is none, to the system call behind it.
    package func ledOn(from own: UInt64, to other: VDSO, at place: UInt64) throws(CheckpointError) -> [UInt8] {
        var content = content
        let starts = Set(functions.values.map(\.offset)).sorted()
        for (name, function) in functions {
            let end = starts.first { $0 > function.offset } ?? UInt64(content.count)
            let room = min(max(function.size, 16), end - function.offset)
            let plain = name.hasPrefix("__vdso_") ? String(name.dropFirst(7)) : name
            let code: [UInt8]
            if plain == "getrandom" { code = Self.getrandom }  // its state, which the program keeps, is a kernel's own affair
            else if let target = other.functions[name] { code = Self.jump(from: own + function.offset, to: place + target.offset) }
            else if let number = Self.systemCalls[plain] { code = [0xb8] + little32(UInt32(number)) + [0x0f, 0x05, 0xc3] }  // mov $number, %eax; syscall; ret
            else { continue }
            guard code.count <= room else {
                throw CheckpointError("restore", .object("the vDSO of the image"), "its function \(name) has only \(room) bytes, too few to lead on to this kernel's", remedy: "restore under the kernel of the dump")
            }
            content.replaceSubrange(Int(function.offset)..<Int(function.offset) + code.count, with: code)
        }
        return content
    }

    private static let systemCalls: [String: Int32] = [
        "clock_gettime": SYS_clock_gettime, "gettimeofday": SYS_gettimeofday, "time": SYS_time, "getcpu": SYS_getcpu, "clock_getres": SYS_clock_getres,
    ]

    /// jmp rel32, or jmp *(%rip) with the address behind it where it is too far.
    private static func jump(from start: UInt64, to target: UInt64) -> [UInt8] {
        if let distance = Int32(exactly: Int64(bitPattern: target &- start &- 5)) { return [0xe9] + little32(UInt32(bitPattern: distance)) }
        return [0xff, 0x25, 0, 0, 0, 0] + little64(target)
    }

    /// `getrandom(buffer, length, flags, state, size of state)`: asked what state it wants (size ~0) it says -ENOSYS, else it is getrandom(2).
    private static let getrandom: [UInt8] =
        [0x49, 0x83, 0xf8, 0xff, 0x74, 0x08, 0xb8] + little32(UInt32(SYS_getrandom)) + [0x0f, 0x05, 0xc3, 0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3]
}
