/// Texts and messages that the kernel answers with, as bytes: every parser of this folder, for those who feed them damaged ones. On other machines than
/// ours they come from other kernels, and a parser that crashes leaves a tree frozen.
public enum KernelAnswer: UInt8, CaseIterable, Sendable {
    case netlinkMessages, unixSocket, inetSocket, netlinkSocket, packetSocket, nftablesTable
    case stat, keyedLines, mappings, socketTable, igmp, igmp6, ring

    /// Reads them as if the kernel had said them. Nil is what most answer to what they don't understand; the value does not matter here.
    public func read(_ bytes: [UInt8]) {
        let text = { String(decoding: bytes, as: UTF8.self) }
        switch self {
        case .netlinkMessages: _ = try? SocketDiag.parseMessages(bytes) { _ in }
        case .unixSocket: _ = SocketDiag.parseUnix(bytes[...])
        case .inetSocket: _ = SocketDiag.parseInet(bytes[...])
        case .netlinkSocket: _ = SocketDiag.parseNetlink(bytes[...])
        case .packetSocket: _ = SocketDiag.parsePacket(bytes[...])
        case .nftablesTable: _ = Netfilter.parseTable(bytes[...])
        case .stat: _ = TaskStat(parsing: bytes)
        case .keyedLines:
            let lines = KeyedLines(parsing: bytes)
            for line in lines.lines { _ = (lines.decimal(line.key), lines.hexadecimal(line.key), lines.octal(line.key), lines.words(line.key), lines.all(line.key)) }
        case .mappings: _ = Mapping.parse(bytes)
        case .socketTable: _ = SocketTable.parse(text())
        case .igmp: _ = MulticastGroup.parse4(text())
        case .igmp6: _ = MulticastGroup.parse6(text())
        case .ring: _ = IOUringInfo(parsing: text())
        }
    }
}
