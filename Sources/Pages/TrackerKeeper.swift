import CLinux
import Glibc
package import Linux

/// Holds the memory trackers of a tree between two runs of stasis: a small process of its own, because tracking by write
/// protection lasts only for as long as somebody has the userfaultfd open.
///
/// It is found again by an abstract unix socket whose name has the root's pid namespace, pid and start time; whoever asks, and
/// is the same user, gets everything it holds, and it ends. It ends, too, when all its processes are gone. Nothing depends on it: when it
/// is killed, the kernel takes the write protection away, and the next dump saves every page.
package enum TrackerKeeper {
    /// The word that makes `stasis` a keeper.
    package static let command = "keep-trackers"

    private static func address(of root: ThreadID) throws(SyscallError) -> SocketAddress {
        let namespace = try Files.link("/proc/\(root)/ns/pid"), start = try TaskStat.of(root).startTime
        return SocketAddress(unix: [0] + Array("stasis/memory-trackers/\(namespace)/\(root)/\(start)".utf8))
    }

    /// Takes over what the keeper of that tree holds; nothing when there is none.
    package static func take(root: ThreadID, _ log: Log) -> [MemoryTracker] {
        guard let socket = try? FileDescriptor.socket(1, 5 /* AF_UNIX, SOCK_SEQPACKET */) else { return [] }
        do throws(SyscallError) { try socket.connect(try address(of: root)) } catch { return [] }
        guard isTrusted(socket) else {
            log.warn("the keeper of memory trackers belongs to another user: every page counts as changed")
            return []
        }
        var trackers = [MemoryTracker]()
        while let message = try? socket.receive(room: 4096, flags: 0), !message.bytes.isEmpty {
            guard let tracker = Entry(message).flatMap(\.tracker) else { continue }
            trackers.append(tracker)
        }
        return trackers
    }

    /// Starts a keeper for these trackers. Afterwards nobody needs us.
    package static func give(_ trackers: [MemoryTracker], root: ThreadID) throws(SyscallError) {
        guard !trackers.isEmpty else { return }
        let listener = try FileDescriptor.socket(1, 5)
        let name = try address(of: root)
        for attempt in 0... {
            do throws(SyscallError) { try listener.bind(name) } catch {
                // The keeper before this one has given its trackers away, and is about to be gone.
                guard error.errno == Errno(EADDRINUSE), attempt < 200 else { throw error }
                usleep(5000)
                continue
            }
            break
        }
        try listener.listen(4)
        let (ours, its) = try FileDescriptor.socketPair(1, 5)
        let nowhere = try FileDescriptor.open("/dev/null", O_RDWR)
        _ = try Program.start("/proc/self/exe", [command], output: nowhere, inNewSession: true, input: its)
        try ours.send(Array("listen".utf8), descriptors: [listener])
        for tracker in trackers {
            guard let alive = try? FileDescriptor.process(tracker.process) else { continue }
            let entry = Entry(process: tracker.process.rawValue, startTime: tracker.startTime, since: tracker.since, alive: alive, fault: tracker.fault)
            try ours.send(entry.bytes, descriptors: entry.descriptors)
        }
        try ours.send(Array("end".utf8))
        _ = try ours.receive(room: 16, flags: 0)
    }

    /// The keeper itself: what `stasis keep-trackers` runs, with its starter's socket as standard input.
    package static func run() throws(SyscallError) {
        let starter = FileDescriptor(owning: STDIN_FILENO)
        Program.standAlone(as: "stasis-keeper")
        var listener: FileDescriptor?, entries = [Entry]()
        while true {
            guard let message = try starter.receive(room: 4096, flags: 0), !message.bytes.isEmpty else { return }  // the starter is gone
            let text = String(decoding: message.bytes, as: UTF8.self)
            if text == "end" { break }
            if text == "listen" { listener = message.descriptors.first } else if let entry = Entry(message) { entries.append(entry) }
        }
        guard let socket = listener else { return }
        try starter.send([1])
        guard let caller = try wait(&entries, socket) else { return }
        for entry in entries { try caller.send(entry.bytes, descriptors: entry.descriptors) }
    }

    /// Waits for somebody who takes the trackers over; nil when all their processes have ended.
    private static func wait(_ entries: inout [Entry], _ listener: FileDescriptor) throws(SyscallError) -> FileDescriptor? {
        while !entries.isEmpty {
            let ready = try Poll.wait(for: [(listener, events: Poll.readable)] + entries.map { ($0.alive, events: Poll.readable) })
            entries = zip(entries, ready.dropFirst()).filter { $0.1 == 0 }.map(\.0)
            if ready[0] != 0, let caller = try? listener.accept(), isTrusted(caller) { return caller }
        }
        return nil
    }

    /// SO_PEERCRED, unix(7).
    private static func isTrusted(_ socket: FileDescriptor) -> Bool {
        var peer = SocketCredentials()
        guard (try? socket.option(SocketOption.peerCredentials, into: &peer)) != nil else { return false }
        return peer.uid == geteuid()
    }

    /// One process as it travels: "PID START SINCE", with a pidfd and, where there is one, the userfaultfd.
    private struct Entry {
        let process: Int32, startTime: UInt64, since: String
        let alive: FileDescriptor, fault: FileDescriptor?
        var bytes: [UInt8] { Array("\(process) \(startTime) \(since)".utf8) }
        var descriptors: [FileDescriptor] { [alive] + (fault.map { [$0] } ?? []) }

        init(process: Int32, startTime: UInt64, since: String, alive: FileDescriptor, fault: FileDescriptor?) {
            (self.process, self.startTime, self.since, self.alive, self.fault) = (process, startTime, since, alive, fault)
        }
        init?(_ message: SocketMessage) {
            let words = String(decoding: message.bytes, as: UTF8.self).split(separator: " ", omittingEmptySubsequences: false)
            guard words.count == 3, let process = Int32(words[0]), let start = UInt64(words[1]), let alive = message.descriptors.first else { return nil }
            self.init(process: process, startTime: start, since: String(words[2]), alive: alive, fault: message.descriptors.dropFirst().first)
        }
        var tracker: MemoryTracker? {
            MemoryTracker(process: ThreadID(process), startTime: startTime, since: since, means: fault.map { .writeProtection(Userfault($0)) } ?? .softDirty)
        }
    }
}

extension MemoryTracker {
    fileprivate var fault: FileDescriptor? { if case .writeProtection(let fault) = means { fault.descriptor } else { nil } }
}
