/// Multicast groups that somebody on this host is a member of, by interface: /proc/net/igmp and igmp6. Which socket it is they do not say.
public struct MulticastGroup: Hashable, Sendable {
    public var interface: UInt32
    public var address: InetAddress

    public static func all(family: UInt16) throws(SyscallError) -> [MulticastGroup] {
        family == InetAddress.ipv4 ? parse4(try Files.text("/proc/thread-self/net/igmp")) : parse6(try Files.text("/proc/thread-self/net/igmp6"))
    }

    /// "1	lo : 1 V3" begins an interface; "	010000E0 1 0:00000000 0" is a group of it, a native word (net/ipv4/igmp.c).
    static func parse4(_ text: String) -> [MulticastGroup] {
        var interface: UInt32?, found = [MulticastGroup]()
        for line in text.split(separator: "\n").dropFirst() {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            guard let first = words.first else { continue }
            if line.first?.isNumber == true {
                interface = UInt32(first)
            } else if let interface, let word = UInt32(first, radix: 16) {
                found.append(MulticastGroup(interface: interface, address: InetAddress(family: InetAddress.ipv4, bytes: (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) }, port: 0)))
            }
        }
        return found
    }

    /// "1 lo ff020000000000000000000000000001 1 0000000C 0": interface, its name, group, users ... (net/ipv6/mcast.c).
    static func parse6(_ text: String) -> [MulticastGroup] {
        text.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            guard words.count >= 3, let interface = UInt32(words[0]), words[2].count == 32 else { return nil }
            let digits = Array(words[2])
            let bytes = stride(from: 0, to: 32, by: 2).compactMap { UInt8(String(digits[$0..<($0 + 2)]), radix: 16) }
            return bytes.count == 16 ? MulticastGroup(interface: interface, address: InetAddress(family: InetAddress.ipv6, bytes: bytes, port: 0)) : nil
        }
    }
}
