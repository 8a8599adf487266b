import Glibc
import ImageMessages
import Images
import Kinds
package import Linux

/// The lazy-pages daemon: gives restored processes their memory, at once where they touch it, and the rest behind.
///
/// A process's missing pages are a list of runs, each with its address in the images. What the process does with its memory meanwhile
/// comes as events (Documentation/admin-guide/mm/userfaultfd.rst, "Non-cooperative userfaultfd") and changes the list: a fork copies it, mremap
/// moves runs, munmap and MADV_DONTNEED take them out. A page that is in no run is zeros.
///
/// When the pages can't be had any more, the processes can't go on with holes in their memory: they are ended, and the error says so. They are
/// ended, too, when this process is killed.
package final class LazyPages {
    private struct Run {
        /// Where the pages belong now.
        var range: Range<UInt64>
        /// Where they are in the images.
        var source: UInt64
        func clamped(to part: Range<UInt64>) -> Run {
            let range = range.clamped(to: part)
            return Run(range: range, source: source + range.lowerBound - self.range.lowerBound)
        }
    }
    private final class Client {
        let task: UInt32, fault: Userfault
        /// Ascending. Taken from its beginning, mostly.
        var runs: ArraySlice<Run>
        /// Addresses in the images that are to be given before others, the first last.
        var first: [Range<UInt64>] = []
        var isGone = false
        init(_ task: UInt32, _ fault: Userfault, _ runs: [Run]) { (self.task, self.fault, self.runs) = (task, fault, runs[...]) }

        func remove(_ range: Range<UInt64>) {
            if let first = runs.first, first.range.lowerBound == range.lowerBound, first.range.upperBound >= range.upperBound {
                let rest = first.clamped(to: range.upperBound..<first.range.upperBound)
                if rest.range.isEmpty { runs.removeFirst() } else { runs[runs.startIndex] = rest }
                return
            }
            var left = [Run]()
            for run in runs {
                guard run.range.overlaps(range) else { left.append(run); continue }
                if run.range.lowerBound < range.lowerBound { left.append(run.clamped(to: run.range.lowerBound..<range.lowerBound)) }
                if run.range.upperBound > range.upperBound { left.append(run.clamped(to: range.upperBound..<run.range.upperBound)) }
            }
            runs = left[...]
        }
        func move(_ range: Range<UInt64>, to start: UInt64) {
            let moved = runs.filter { $0.range.overlaps(range) }.map { run in
                let part = run.clamped(to: range), at = start + part.range.lowerBound - range.lowerBound
                return Run(range: at..<(at + UInt64(part.range.count)), source: part.source)
            }
            remove(range)
            remove(start..<(start + UInt64(range.count)))
            runs = (runs + moved).sorted { $0.range.lowerBound < $1.range.lowerBound }[...]
        }
        func run(at address: UInt64) -> Run? {
            var low = runs.startIndex, high = runs.endIndex
            while low < high {
                let middle = (low + high) / 2
                if runs[middle].range.upperBound <= address { low = middle + 1 } else { high = middle }
            }
            return low < runs.endIndex && runs[low].range.contains(address) ? runs[low] : nil
        }
    }

    private let source: any PageSource
    private let missing: (_ task: UInt32) throws -> [Range<UInt64>]
    private let log: Log
    private let buffer = PageBuffer()
    private var clients: [Client] = []
    private var restorer: FileDescriptor?
    private var isComplete = false
    private var guardian: Guardian?
    /// Pages given where they were touched, and behind.
    package private(set) var faulted: UInt64 = 0, transferred: UInt64 = 0
    /// Pages that are given at once behind what is waited for: few while processes touch their memory, for who touches a page meanwhile waits for all of them.
    private var share = LazyPages.mostBehind
    private static let mostBehind = 128
    /// To ask somebody else for four pages takes about as long as to ask for some more.
    private var fewestBehind: Int { source.isNear ? 4 : 32 }
    /// Which pages of a task are given first when nobody waits for others, in this order.
    var first: (_ task: UInt32) -> [Range<UInt64>] = { _ in [] }
    /// The pages that were waited for, in their order, by their addresses in the images.
    private(set) var touched: [UInt32: [Range<UInt64>]] = [:]

    /// - Parameter missing: which pages of a task are to be given, by their addresses in the images, ascending.
    package init(_ source: any PageSource, missing: @escaping (_ task: UInt32) throws -> [Range<UInt64>], _ log: Log) {
        (self.source, self.missing, self.log) = (source, missing, log)
    }

    /// Serves one restore until every process has all its pages, or is gone.
    package func serve(_ connection: FileDescriptor) throws {
        restorer = connection
        do {
            while !isComplete || !clients.isEmpty {
                try wait()
                if isComplete { try transferSome() }
                clients.removeAll { $0.isGone || ($0.runs.isEmpty && isComplete) }
            }
        } catch {
            endAll()
            throw error
        }
    }

    // MARK: what happens

    private func wait() throws {
        var watched = clients.map { ($0.fault.descriptor, events: Poll.readable) }
        if let restorer, !isComplete { watched.append((restorer, events: Poll.readable)) }
        let isIdle = !isComplete || clients.allSatisfy(\.runs.isEmpty)
        let ready = try Poll.wait(for: watched, milliseconds: isIdle ? -1 : 0)
        for (client, events) in zip(clients, ready) where events != 0 { try readEvents(of: client) }
        if !isComplete, let restorer, ready.last ?? 0 != 0 { try take(from: restorer) }
    }

    private func take(from restorer: FileDescriptor) throws {
        guard let bytes = try PageConnection(restorer).receive(4) else { throw CheckpointError("serve", .object("the restore"), "it ended before it had handed over all processes") }
        let number: Int32 = bytes.word(at: 0)
        if UInt32(bitPattern: number) == LazyRestore.allHandedOver {
            isComplete = true
            guardian = try Guardian(killing: clients.map { ThreadID(Int32(bitPattern: $0.task)) }, holding: clients.map(\.fault.descriptor))
            log.info("all \(clients.count) processes are here")
            return
        }
        if number <= 0 { return }  // a zombie
        guard let message = try restorer.receive(room: 1, flags: 0), let descriptor = message.descriptors.first else {
            throw CheckpointError("serve", .object("the restore"), "no userfaultfd came for task \(number)")
        }
        let task = UInt32(bitPattern: number)
        let client = Client(task, Userfault(descriptor), try missing(task).map { Run(range: $0, source: $0.lowerBound) })
        client.first = first(task).reversed()
        // Given before does not mean that it was not touched.
        touched[task] = client.first.reversed()
        clients.append(client)
    }

    /// struct uffd_msg, 32 bytes each (linux/userfaultfd.h).
    private func readEvents(of client: Client) throws {
        let bytes: [UInt8]
        do throws(SyscallError) { bytes = try client.fault.descriptor.read(32 * 16) } catch {
            if error.errno.rawValue == EAGAIN { return }
            client.isGone = true
            return
        }
        if bytes.isEmpty { client.isGone = true }
        for at in stride(from: 0, to: bytes.count - bytes.count % 32, by: 32) {
            let (first, second, third) = (bytes.word(UInt64.self, at: at + 8), bytes.word(UInt64.self, at: at + 16), bytes.word(UInt64.self, at: at + 24))
            switch bytes[at] {
            case 0x12: try give(client, at: second & ~4095)
            case 0x13:  // UFFD_EVENT_FORK: the child's own userfaultfd
                clients.append(Client(client.task, Userfault(FileDescriptor(owning: Int32(truncatingIfNeeded: first))), Array(client.runs)))
            case 0x14: if third > 0, first &+ third > first { client.move(first..<(first + third), to: second) }
            case 0x15, 0x16: if second > first { client.remove(first..<second) }
            default: break
            }
        }
    }

    // MARK: giving pages

    /// A page that somebody waits for, and next some behind it.
    private func give(_ client: Client, at address: UInt64) throws {
        share = fewestBehind
        guard let run = client.run(at: address) else { return try fill(client, zeros: address..<(address + 4096)) }
        let wanted = run.clamped(to: address..<min(run.range.upperBound, address + 16 * 4096))
        try give(client, source.isNear ? wanted.clamped(to: address..<(address + 4096)) : wanted)
        faulted += 1
        if source.isNear, wanted.range.count > 4096, run.source == run.range.lowerBound { client.first.append((wanted.source + 4096)..<(wanted.source + UInt64(wanted.range.count))) }
        if faulted <= WorkingSet.most { touched[client.task, default: []].append(wanted.source..<(wanted.source + UInt64(wanted.range.count))) }
    }

    /// The next pages that nobody has asked for, of each process.
    private func transferSome() throws {
        for client in clients where !client.isGone {
            if let next = client.first.popLast() {
                // Moved or unmapped since: then it comes with the rest, or not at all.
                if let run = client.run(at: next.lowerBound), run.source == run.range.lowerBound { try give(client, run.clamped(to: next)) }
                continue
            }
            guard let run = client.runs.first else { continue }
            try give(client, run.clamped(to: run.range.lowerBound..<min(run.range.upperBound, run.range.lowerBound + UInt64(share) * 4096)))
        }
        share = min(share * 2, Self.mostBehind)
    }

    private func give(_ client: Client, _ run: Run) throws {
        let got = try source.read(run.source..<(run.source + UInt64(run.range.count)), of: client.task, into: buffer) & ~4095
        guard got > 0 else {
            throw CheckpointError("give", .task(ThreadID(Int32(bitPattern: client.task))), "its page at 0x\(String(run.source, radix: 16)) is not there")
        }
        var done = 0, isWhole = true
        while done < got, !client.isGone {
            let at = run.range.lowerBound + UInt64(done)
            do throws(SyscallError) {
                done += try buffer.fill(client.fault, at: at, from: done, isWhole ? got - done : 4096)
            } catch {
                switch error.errno.rawValue {
                case EEXIST:
                    // It is there already: written by the process after a page of zeros, or given to a waiter before.
                    try? client.fault.wake(at..<(at + 4096))
                    done += 4096
                case EAGAIN:
                    // Its memory is changing: the event that says how has to be read first. Whoever waits asks again.
                    if done > 0 { client.remove(run.range.lowerBound..<at) }
                    try? client.fault.wake(run.range)
                    return
                case ENOENT where isWhole, EINVAL where isWhole: isWhole = false  // not one mapping (any more): page by page
                case ENOENT, EINVAL: done += 4096  // unmapped in the meantime
                case ESRCH, EBADF, ENOSPC: client.isGone = true
                default: throw CheckpointError("give", .task(ThreadID(Int32(bitPattern: client.task))), "\(error)")
                }
            }
        }
        transferred += UInt64(done) / 4096
        client.remove(run.range.lowerBound..<(run.range.lowerBound + UInt64(done)))
    }

    private func fill(_ client: Client, zeros range: Range<UInt64>) throws {
        do throws(SyscallError) { _ = try client.fault.zero(range) } catch {
            switch error.errno.rawValue {
            case EEXIST, ENOENT, EINVAL, EAGAIN: try? client.fault.wake(range)
            case ESRCH, EBADF: client.isGone = true
            default: throw CheckpointError("give", .task(ThreadID(Int32(bitPattern: client.task))), "\(error)")
            }
        }
    }

    /// Processes that would read zeros where their memory was must not go on.
    private func endAll() {
        for task in Set(clients.filter { !$0.isGone }.map(\.task)) {
            log.error("task \(task) is ended: its memory can't be had any more")
            _ = kill(Int32(bitPattern: task), SIGKILL)
        }
    }
}
@available(*, unavailable) extension LazyPages: Sendable {}
