import Glibc
import Images
import Linux

/// The rules of this thread's network namespace by which the kernel filters packets: those of nf_tables, and those of the older iptables. Images hold them as
/// text, as the programs that administer them print it (nft(8), iptables-save(8)). A program is started only where there is something to print or to read.
enum PacketFilters {
    private enum Program: CaseIterable {
        case nftables, iptables, ip6tables
        var image: ImageKind { switch self { case .nftables: .nftables; case .iptables: .iptables; case .ip6tables: .ip6tables } }
        /// What prints and what reads the rules; where iptables(8) has become a face of nf_tables, the old one is called "legacy".
        var printers: [String] { switch self { case .nftables: ["nft"]; case .iptables: ["iptables-legacy-save", "iptables-save"]; case .ip6tables: ["ip6tables-legacy-save", "ip6tables-save"] } }
        var readers: [String] { switch self { case .nftables: ["nft"]; case .iptables: ["iptables-legacy-restore", "iptables-restore"]; case .ip6tables: ["ip6tables-legacy-restore", "ip6tables-restore"] } }
        var subject: CheckpointError.Subject { .object(self == .nftables ? "the rules of nf_tables" : "the rules of \(self)") }
        func text(_ images: NetworkImages) -> String { switch self { case .nftables: images.nftables; case .iptables: images.iptables; case .ip6tables: images.ip6tables } }

        /// Whether there are tables. Nothing is loaded by asking.
        func isUsed() throws -> Bool {
            switch self {
            case .nftables: try Netfilter.isLoaded && !Netfilter().tables(family: 0).isEmpty
            case .iptables: Self.hasLines("ip_tables_names")
            case .ip6tables: Self.hasLines("ip6_tables_names")
            }
        }
        private static func hasLines(_ name: String) -> Bool { ((try? Files.read("/proc/thread-self/net/\(name)")) ?? []).isEmpty == false }
    }

    // MARK: Dump

    static func dump(_ namespace: UInt32, _ context: DumpContext) throws {
        for program in Program.allCases {
            let text = try context.attempt { try CheckpointError.about("dump", program.subject) { try program.isUsed() ? rules(program) : "" } } ?? ""
            try context.images.writeRaw(program.image.name(UInt64(namespace)), Array(text.utf8))
        }
    }

    private static func rules(_ program: Program) throws -> String {
        if program == .nftables, let owned = try Netfilter().tables(family: 0).first(where: \.isOwned) {
            throw CheckpointError("dump", .object("table \(owned.name) of nf_tables"), "it belongs to a program (flags owner) and would go with it: not supported yet")
        }
        let text = try run(program, "dump", program.printers, program == .nftables ? ["list", "ruleset"] : [])
        // Rules that iptables-nft made of modules which nf_tables has no words for.
        if program == .nftables, let line = text.split(separator: "\n").first(where: { $0.contains("xt match ") || $0.contains("xt target ") }) {
            throw CheckpointError("dump", program.subject, "nft has no words for \"\(line.drop { $0 == "\t" || $0 == " " })\"", remedy: "make this rule with nft, or with iptables-legacy")
        }
        return text
    }

    // MARK: Restore

    /// When all sockets are there: what these were brought back with is not for the rules.
    static func restore(_ images: NetworkImages) throws {
        for program in Program.allCases {
            let text = withoutLock(program.text(images))
            if text.utf8.allSatisfy({ $0 == 10 || $0 == 32 }) { continue }
            _ = try run(program, "restore", program.readers, program == .nftables ? ["-f", "-"] : [], input: text)
        }
    }

    /// Whether the programs are there, for the rules that the images have.
    static func check(_ images: NetworkImages) throws {
        for program in Program.allCases where !program.text(images).isEmpty { _ = try find(program, "restore", program.readers) }
    }

    /// CRIU saves the rules when it has locked the network, and its lock with them: chains and jumps named CRIU, a table CRIU-ID.
    static func withoutLock(_ text: String) -> String {
        var kept = [Substring](), ends: Substring?
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            let indent = line.prefix { $0 == "\t" || $0 == " " }, words = line.dropFirst(indent.count)
            if let end = ends {
                if line == end { ends = nil }
                continue
            }
            if words.hasPrefix("chain CRIU {") || words.hasPrefix("table inet CRIU-") {
                ends = indent + "}"
            } else if !(words.hasSuffix("jump CRIU") || words.hasPrefix(":CRIU ") || words.hasPrefix("-A CRIU ") || words.hasSuffix("-j CRIU")) { kept.append(line) }
        }
        return kept.joined(separator: "\n")
    }

    // MARK: programs

    private static func find(_ program: Program, _ action: String, _ names: [String]) throws -> String {
        guard let found = names.first(where: { Linux.Program.find($0) != nil }) else {
            throw CheckpointError(action, program.subject, "the program \(names.last!) is missing", remedy: "install \(program == .nftables ? "nftables" : "iptables")")
        }
        return found
    }

    private static func run(_ program: Program, _ action: String, _ names: [String], _ arguments: [String], input: String = "") throws -> String {
        let name = try find(program, action, names)
        return try CheckpointError.about(action, program.subject) {
            let file = try FileDescriptor.memory("rules")
            try file.write(Array(input.utf8))
            _ = try file.seek(0)
            guard let (end, output) = try Linux.Program.output(of: name, arguments, within: 60, input: file) else {
                throw CheckpointError(action, program.subject, "\(name) has not ended for a minute")
            }
            let text = String(decoding: output, as: UTF8.self)
            guard end == .exited(0) else { throw CheckpointError(action, program.subject, "\(name): \(end): \(text.prefix(400))") }
            return text
        }
    }
}
