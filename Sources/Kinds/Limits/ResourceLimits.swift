import CLinux
import Graft
package import ImageMessages
import Linux

/// getrlimit(2): 16 resources in order of their numbers; 2^64 - 1 is "no limit".
package struct ResourceLimits {
    package static let count = 16
    private static let openFiles = 7
    private let buffer: Batch.Buffer

    init(_ batch: inout Batch) {
        buffer = batch.output(16 * Self.count)
        for resource in 0..<Self.count {
            batch.call("prlimit64", SYS_prlimit64, 0, .init(resource), 0, .init(buffer.address + UInt64(16 * resource)))
        }
    }

    func answer(_ batch: Batch) -> TaskRlimitsEntry {
        var entry = TaskRlimitsEntry()
        entry.rlimits = (0..<Self.count).map { resource in
            var limit = RlimitEntry()
            (limit.cur, limit.max) = (batch.word(of: buffer, resource * 2), batch.word(of: buffer, resource * 2 + 1))
            return limit
        }
        return entry
    }

    /// The task sets its own: prlimit(2) on a task of another user needs CAP_SYS_RESOURCE. The number of open files last, as
    /// we may still have to hand it some.
    /// - Parameter ceiling: hard limits that can't be raised (ours, without CAP_SYS_RESOURCE); what the image has beyond them is cut.
    static func restore(_ entry: TaskRlimitsEntry, ceiling: [UInt64]?, log: (String) -> Void, into batch: inout Batch) throws {
        guard entry.rlimits.count <= count else { throw CheckpointError("restore", .object("resource limits"), "the image has \(entry.rlimits.count) of them instead of \(count)") }
        let order = entry.rlimits.indices.sorted { ($0 == openFiles ? 1 : 0, $0) < ($1 == openFiles ? 1 : 0, $1) }
        for resource in order {
            var limit = entry.rlimits[resource]
            if let ceiling, resource < ceiling.count, limit.max > ceiling[resource] {
                log(lowered(resource, limit.max, ceiling[resource]))
                limit.max = ceiling[resource]
            }
            limit.cur = min(limit.cur, limit.max)
            batch.call("prlimit64", SYS_prlimit64, 0, .init(resource), batch.words([limit.cur, limit.max]).argument, 0)
        }
    }

    private static func lowered(_ resource: Int, _ from: UInt64, _ to: UInt64) -> String {
        "the hard limit of resource \(resource) is lowered from \(from) to \(to): raising it needs CAP_SYS_RESOURCE"
    }

    /// What `restore` will say of each limit that it has to cut.
    package static func cuts(_ entry: TaskRlimitsEntry) -> [String] {
        guard let ceiling else { return [] }
        return zip(entry.rlimits.indices, zip(entry.rlimits, ceiling)).filter { $1.0.max > $1.1 }.map { lowered($0, $1.0.max, $1.1) }
    }

    /// Our own hard limits when they can't be raised, which every task we start has inherited.
    package static let ceiling: [UInt64]? = {
        let resourceCapability: UInt64 = 1 << 24
        if let status = try? Proc.status(.current), (status.hexadecimal("CapEff") ?? 0) & resourceCapability != 0 { return nil }
        return (try? Proc.limits(of: .current))?.map(\.hard)
    }()
}
