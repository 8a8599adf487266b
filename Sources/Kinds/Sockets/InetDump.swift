import ImageMessages
import Linux

/// The kernel's lists of inet sockets, each read once a dump, when the first socket of its family and protocol is met.
package final class InetDump: DumpState {
    private struct List: Hashable { var family: UInt32, number: UInt8 }
    private var lists: [List: [UInt32: InetSocketInfo]] = [:]
    package init() {}

    private static func table(_ number: UInt8) -> String? {
        switch number {
        case 1, 58: "icmp"
        case 255: "raw"
        default: nil
        }
    }

    /// Nil for a socket that is neither bound nor connected, or whose connection is over.
    func info(of file: OpenFile, family: UInt32, protocol number: UInt8) throws -> InetSocketInfo? {
        let key = List(family: family, number: number), inode = UInt32(truncatingIfNeeded: file.status.inode)
        if let list = lists[key] { return list[inode] }
        let found = try CheckpointError.about("dump", file.subject, remedy: "load the kernel modules inet_diag, tcp_diag, udp_diag and raw_diag") {
            do throws(SyscallError) { return try SocketDiag.inetSockets(family: UInt16(family), protocol: number) } catch {
                // No sock_diag for ping sockets, and for raw ones only with CONFIG_INET_RAW_DIAG.
                guard let table = Self.table(number), error.errno.rawValue == 2 /* ENOENT */ else { throw error }
                return try SocketTable.sockets(family == InetAddress.ipv4 ? table : table + "6")
            }
        }
        let list = Dictionary(found.filter { $0.inode != 0 }.map { ($0.inode, $0) }, uniquingKeysWith: { first, _ in first })
        lists[key] = list
        return list[inode]
    }
}
