import CLinux
import Glibc
import Graft
import ImageMessages
import Kinds
import Linux

/// Puts open files at their numbers in a process: sent in order of number, 253 a message, most arrive where they belong. Rings of io_uring can't
/// be sent, and get their numbers later (`IOUringFile`).
struct DescriptorTable {
    let process: RestoringProcess
    let entries: [FdinfoEntry]

    init(_ process: RestoringProcess, _ entries: [FdinfoEntry]) {
        self.process = process
        self.entries = entries.sorted { $0.fd < $1.fd }
    }

    func fill(_ context: RestoreContext) throws {
        let taken = Set(entries.map { Int32(bitPattern: $0.fd) }), entries = entries.filter { $0.type != IOUringFile.type }
        try moveSocket(avoiding: taken)
        // Numbers below it are taken: by descriptors that are in place, of which `passed` were met, or by the socket.
        var lowest: Int32 = 0, passed = 0
        var at = 0
        while at < entries.count {
            let part = Array(entries[at..<min(entries.count, at + DescriptorPassing.most)])
            let descriptors = try part.map { entry in
                try CheckpointError.about("restore", .descriptor(Int32(bitPattern: entry.fd), path: "file id \(entry.id)", of: process.pid)) { try context.requireDescriptor(of: entry.id) }
            }
            try DescriptorPassing.send(descriptors, through: process.channel)
            var batch = process.grafted.batch()
            // As most of them are, so that few need another call.
            let closing = part.reduce(0) { $0 + Int($1.flags & 1) } * 2 > part.count
            batch.receiveDescriptors(part.count, from: .init(process.socket), closeOnExec: closing)
            // The kernel gives the lowest free numbers; the highest is moved first, so no move hits one that waits.
            func skipTaken(_ number: inout Int32, _ index: inout Int) {
                while true {
                    if index < at, Int32(bitPattern: entries[index].fd) == number { index += 1 } else if number != process.socket { return }
                    number += 1
                }
            }
            skipTaken(&lowest, &passed)
            var free = lowest, index = passed
            let arrived: [Int32] = part.map { _ in
                skipTaken(&free, &index)
                defer { free += 1 }
                return free
            }
            for (number, entry) in zip(arrived, part).reversed() {
                let wanted = Int32(bitPattern: entry.fd), closes = entry.flags & 1 != 0
                if number != wanted {
                    batch.call("dup3", SYS_dup3, .init(number), .init(wanted), .init(closes ? O_CLOEXEC : 0))
                    batch.call("close", SYS_close, .init(number))
                } else if closes != closing { batch.call("fcntl(F_SETFD)", SYS_fcntl, .init(wanted), .init(F_SETFD), closes ? 1 : 0) }
            }
            try CheckpointError.about("restore", .task(process.pid)) { try process.grafted.run(&batch) }
            at += part.count
        }
    }

    /// The socket's own number must be free in the end.
    private func moveSocket(avoiding taken: Set<Int32>) throws {
        guard taken.contains(process.socket) else { return }
        var number: Int32 = 0
        while taken.contains(number) || number == process.socket { number += 1 }
        try process.run { batch in
            batch.call("dup3", SYS_dup3, .init(process.socket), .init(number), .init(O_CLOEXEC))
            batch.call("close", SYS_close, .init(process.socket))
        }
        process.socket = number
    }
}
