import Kinds
import Linux

/// Whether the memory of the images fits this machine.
enum MemoryRoom {
    /// Bytes, from /proc/meminfo.
    struct Room {
        var total: UInt64 = 0, available: UInt64 = 0
        static var here: Room? {
            guard let text = try? Files.text("/proc/meminfo") else { return nil }
            var values = [Substring: UInt64]()
            for line in text.split(separator: "\n") {
                let words = line.split(separator: " ")
                if words.count > 1, let kilobytes = UInt64(words[1]) { values[words[0]] = kilobytes * 1024 }
            }
            guard let total = values["MemTotal:"], let available = values["MemAvailable:"] else { return nil }
            return Room(total: total + (values["SwapTotal:"] ?? 0), available: available + (values["SwapFree:"] ?? 0))
        }
    }

    /// A process's own pages must all be there at once; pages that processes share are counted with each, so the sum says less.
    static func check(_ processes: [(pid: Int32, bytes: UInt64)], _ room: Room? = .here) throws(CheckpointError) {
        guard let room, let largest = processes.max(by: { $0.bytes < $1.bytes }), largest.bytes > room.total else { return }
        throw CheckpointError(
            "restore", .task(.init(largest.pid)), "its memory takes \(Quantity.bytes(largest.bytes)), this machine has \(Quantity.bytes(room.total)) with its swap space",
            remedy: "add swap space, or restore on a larger machine")
    }
}
