/// The kernel's tables of raw and ping sockets, /proc/net/raw, raw6, icmp, icmp6 (net/ipv4/raw.c, ping.c): what sock_diag says only
/// where the kernel has CONFIG_INET_RAW_DIAG, or never.
public enum SocketTable {
    public static func sockets(_ name: String) throws(SyscallError) -> [InetSocketInfo] { parse(try Files.text("/proc/thread-self/net/\(name)")) }

    /// Lines as "0: 0100007F:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 4711 2 ...": number, local address, peer,
    /// state, queues, timer, retransmissions, uid, timeout, inode. Addresses are native words in hexadecimal.
    static func parse(_ text: String) -> [InetSocketInfo] {
        text.split(separator: "\n").dropFirst().compactMap { line in
            let words = line.split(separator: " ", omittingEmptySubsequences: true)
            guard words.count >= 10, let local = address(words[1]), let peer = address(words[2]), let state = UInt8(words[3], radix: 16),
                let inode = UInt32(words[9])
            else { return nil }
            var info = InetSocketInfo(local: local, peer: peer)
            (info.state, info.inode, info.uid) = (state, inode, UInt32(words[7]) ?? 0)
            return info
        }
    }

    private static func address(_ text: Substring) -> InetAddress? {
        let parts = text.split(separator: ":")
        guard parts.count == 2, let port = UInt16(parts[1], radix: 16), parts[0].count == 8 || parts[0].count == 32 else { return nil }
        let digits = Array(parts[0])
        let words = stride(from: 0, to: digits.count, by: 8).compactMap { UInt32(String(digits[$0..<($0 + 8)]), radix: 16) }
        guard words.count * 8 == digits.count else { return nil }
        let bytes = words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) } }
        return InetAddress(family: bytes.count == 4 ? InetAddress.ipv4 : InetAddress.ipv6, bytes: bytes, port: port)
    }
}
