import Glibc

/// What the running kernel says of its own types: BTF (Documentation/bpf/btf.rst, include/uapi/linux/btf.h).
enum KernelTypes {
    private static let structure = 4, union = 5, function = 12

    struct Found: Equatable {
        /// The id of the function asked for.
        var function: UInt32
        /// Where each member asked for begins in the structure, bytes.
        var offsets: [Int]
    }

    /// Looks up a function and members of a structure, which may lie in unnamed parts of it. nil: this kernel has not all of them.
    static func find(function: String, structure: String, members: [String]) -> Found? {
        guard let file = try? FileDescriptor.open("/sys/kernel/btf/vmlinux", O_RDONLY) else { return nil }
        // 5 MiB, a mapping of which costs what is looked at; it can be mapped since Linux 6.16.
        if let size = try? file.status().size, let mapped = try? MappedFile(reading: file, count: Int(size)) {
            return mapped.withSpan { find(in: $0, function: function, structure: structure, members: members) }
        }
        guard let bytes = try? Files.read("/sys/kernel/btf/vmlinux") else { return nil }
        return find(in: bytes.span, function: function, structure: structure, members: members)
    }

    static func find(in bytes: Span<UInt8>, function: String, structure: String, members: [String]) -> Found? {
        // struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
        guard bytes.word32(0) & 0xffff == 0xeb9f, let header = Int(exactly: bytes.word32(4)) else { return nil }
        let types = header + Int(bytes.word32(8)), typesEnd = types + Int(bytes.word32(12)), strings = header + Int(bytes.word32(16))
        guard typesEnd <= bytes.count, strings <= bytes.count else { return nil }
        let functionName = Array(function.utf8) + [0], structureName = Array(structure.utf8) + [0]
        // Where each type is; ids count from 1.
        var places: [UInt32] = [0], functionID: UInt32?, structureID: UInt32?
        places.reserveCapacity(1 << 17)
        var at = types
        while at < typesEnd {
            let info = Int(bytes.word32(at + 4)), kind = info >> 24 & 0x1f
            if kind == Self.function, functionID == nil, bytes.holds(functionName, at: strings + Int(bytes.word32(at))) { functionID = UInt32(places.count) }
            if kind == Self.structure, structureID == nil, bytes.holds(structureName, at: strings + Int(bytes.word32(at))) { structureID = UInt32(places.count) }
            places.append(UInt32(truncatingIfNeeded: at))
            guard let more = bytesBehind(kind, info & 0xffff) else { return nil }
            at += 12 + more
        }
        guard let functionID, let structureID else { return nil }
        var offsets = [Int]()
        for member in members {
            guard let offset = offset(of: Array(member.utf8) + [0], in: structureID, bytes, places, strings, depth: 0) else { return nil }
            offsets.append(offset)
        }
        return Found(function: functionID, offsets: offsets)
    }

    /// How much follows the 12 bytes of a type.
    private static func bytesBehind(_ kind: Int, _ count: Int) -> Int? {
        switch kind {
        case 1, 14, 17: 4  // INT, VAR, DECL_TAG
        case 3: 12  // ARRAY
        case 4, 5, 15, 19: 12 * count  // STRUCT, UNION, DATASEC, ENUM64
        case 6, 13: 8 * count  // ENUM, FUNC_PROTO
        case 2, 7...12, 16, 18: 0  // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        default: nil
        }
    }

    private static func offset(of member: [UInt8], in type: UInt32, _ bytes: Span<UInt8>, _ places: [UInt32], _ strings: Int, depth: Int) -> Int? {
        guard Int(type) < places.count, type > 0, depth < 8 else { return nil }
        let at = Int(places[Int(type)]), info = Int(bytes.word32(at + 4))
        guard [structure, union].contains(info >> 24 & 0x1f) else { return nil }
        for index in 0..<(info & 0xffff) {
            let place = at + 12 + 12 * index, name = Int(bytes.word32(place)), bits = Int(bytes.word32(place + 8))
            // With the flag of its kind a structure has bit fields: the upper 8 bits are their width.
            let offset = (info >> 31 == 1 ? bits & 0xffffff : bits) / 8
            if name == 0 {
                if let inside = Self.offset(of: member, in: bytes.word32(place + 4), bytes, places, strings, depth: depth + 1) { return offset + inside }
            } else if bytes.holds(member, at: strings + name) { return offset }
        }
        return nil
    }
}

extension Span<UInt8> {
    /// A little-endian word; 0 where the bytes end before.
    fileprivate func word32(_ at: Int) -> UInt32 {
        guard at >= 0, at <= count - 4 else { return 0 }
        return UInt32(self[at]) | UInt32(self[at + 1]) << 8 | UInt32(self[at + 2]) << 16 | UInt32(self[at + 3]) << 24
    }
    fileprivate func holds(_ text: [UInt8], at place: Int) -> Bool {
        guard place >= 0, place <= count - text.count else { return false }
        for index in text.indices where self[place + index] != text[index] { return false }
        return true
    }
}
