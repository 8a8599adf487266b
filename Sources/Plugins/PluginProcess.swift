import CPlugin
import Glibc
package import Kinds
package import Linux

/// A plugin in C, in a process of its own (`stasis plugin-host`): when it crashes it is an error like any other, and when it hangs
/// it is killed after a while; the tree, and we who hold it, go on. Speaks the messages of stasis-plugin-host.h.
package final class PluginProcess: Plugin {
    /// The word that makes `stasis` a host.
    package static let command = "plugin-host"

    package private(set) var name: String
    package private(set) var hooks: Set<PluginHook> = []
    private let log: Log
    private let process: ThreadID
    private var channel: FileDescriptor?
    /// Seconds that one call may take.
    private let patience: UInt64
    private var session: PluginSession?
    /// What it said when it asked whether it is needed.
    private var wasTold: Bool?
    /// How it died.
    private var death: String?

    /// The host itself: what `stasis plugin-host` runs, with the conductor's socket as standard input. Answers the exit status.
    package static func serve() -> Int32 { stasis_plugin_host(STDIN_FILENO) }

    /// What a plugin can be told before it is asked for anything.
    package struct Circumstances {
        let images: FileDescriptor, log: Log, patience: UInt64
        /// nil in a dump.
        let needed: NeededPlugins?
        package init(images: FileDescriptor, log: Log, patience: UInt64, needed: NeededPlugins?) {
            (self.images, self.log, self.patience, self.needed) = (images, log, patience, needed)
        }
    }

    /// Starts a host and loads the shared object. Nothing of the plugin runs but its constructors.
    package init(_ path: String, _ circumstances: Circumstances) throws {
        let file = path.split(separator: "/").last.map(String.init) ?? path
        name = file.hasSuffix(".so") ? String(file.dropLast(3)) : file
        (log, patience) = (circumstances.log, circumstances.patience)
        let (ours, its) = try FileDescriptor.socketPair(AF_UNIX, 5 /* SOCK_SEQPACKET */)
        // What a plugin prints must not get into --json's answer.
        let output = FileDescriptor(owning: Int32(try Syscall.call("fcntl(F_DUPFD_CLOEXEC)", 72, Int(STDERR_FILENO), Int(F_DUPFD_CLOEXEC), 3)))
        process = try Program.start("/proc/self/exe", [Self.command], output: output, input: its)
        channel = ours
        var names = [String](), hasList = false
        if case .these(let listed) = circumstances.needed { (names, hasList) = (listed, true) }
        let answer = try ask(
            STASIS_PLUGIN_LOAD, "its loading", [Int64(log.level.rawValue), hasList ? 1 : 0, circumstances.needed == nil ? 0 : 1],
            texts: [path] + names, circumstances.images)
        guard answer.result == 0 else { throw PluginError(name, "could not be loaded: \(answer.text)") }
        let known = PluginHook.allCases.filter { answer.numbers[1] >> Int64($0.rawValue) & 1 != 0 }
        (name, hooks) = (answer.text, Set(known))
        let version = answer.numbers[2]
        log.debug("plugin \(name): \(path), version \(version >> 16).\(version >> 8 & 0xff).\(version & 0xff), \(known.map(\.name).joined(separator: " "))")
    }

    deinit { if channel != nil, death == nil { finish() } }

    // MARK: speaking with it

    private struct Answer {
        var numbers: [Int64], text: String, descriptor: FileDescriptor?
        var result: Int { Int(numbers[0]) }
    }

    private func ask(_ kind: Int, _ what: String, _ numbers: [Int64] = [], texts: [String] = [], _ descriptor: FileDescriptor? = nil) throws -> Answer {
        if let death { throw PluginError(name, death) }
        guard let channel else { throw PluginError(name, "has ended") }
        let text: [UInt8] = texts.flatMap { Array($0.utf8) + [0] }
        guard text.count <= Int(STASIS_PLUGIN_TEXT_ROOM) else { throw PluginError(name, "can't be given \(text.count) bytes of text in \(what)") }
        let words: [Int64] = [Int64(kind)] + (numbers + [0, 0, 0, 0]).prefix(4) + [Int64(text.count)]
        do throws(SyscallError) {
            try channel.send(words.flatMap { little64(UInt64(bitPattern: $0)) } + text, descriptors: descriptor.map { [$0] } ?? [])
        } catch { throw died(in: what) }
        let deadline = Clock.monotonic() + patience * 1_000_000_000
        while true {
            let left = Clock.monotonic() < deadline ? (deadline - Clock.monotonic()) / 1_000_000 + 1 : 0
            guard try Poll.wait(for: [(channel, events: Poll.readable)], milliseconds: Int(left))[0] != 0 else { throw hung(in: what) }
            guard let message = try? channel.receive(room: 8192, flags: 0), message.bytes.count >= 48 else { throw died(in: what) }
            let numbers = message.bytes.words(Int64.self, in: 8..<40)
            let text = String(decoding: message.bytes.dropFirst(48).prefix { $0 != 0 }, as: UTF8.self)
            switch Int(message.bytes.word(Int64.self, at: 0)) {
            case STASIS_PLUGIN_LOG: write(text, level: Int(numbers[0]))
            case STASIS_PLUGIN_ADD: session?.use(text)
            case STASIS_PLUGIN_ASKED: wasTold = numbers[0] != 0
            default: return Answer(numbers: numbers, text: text, descriptor: message.descriptors.first)
            }
        }
    }

    private func write(_ text: String, level: Int) {
        let text = "plugin \(name): \(text.hasSuffix("\n") ? String(text.dropLast()) : text)"
        switch level {
        case ...1: log.error(text)
        case 2: log.warn(text)
        case 3: log.info(text)
        default: log.debug(text)
        }
    }

    private func died(in what: String) -> PluginError {
        // It may have closed its socket only; if it has ended, this changes nothing.
        let end = kill()
        return died("crashed in \(what) (\(end))")
    }
    private func hung(in what: String) -> PluginError {
        _ = kill()
        return died("did not come back from \(what) within \(patience) s (--plugin-timeout)")
    }
    private func died(_ how: String) -> PluginError {
        death = how
        return PluginError(name, how)
    }
    private func kill() -> String {
        channel = nil
        _ = Glibc.kill(process.rawValue, SIGKILL)
        return (try? Program.wait(for: process)).map { "\($0)" } ?? "lost"
    }

    /// Closes the channel, whereupon the host ends by itself; one that doesn't is killed.
    private func finish() {
        let alive = try? FileDescriptor.process(process)
        channel = nil
        if let alive { _ = try? Poll.wait(for: [(alive, events: Poll.readable)], milliseconds: 1000) }
        _ = kill()
    }

    /// Calls a hook. nil when the object is not the plugin's.
    private func call(_ hook: PluginHook, _ numbers: [Int64] = [], texts: [String] = [], _ descriptor: FileDescriptor? = nil) throws -> Answer? {
        let answer = try ask(Int(hook.rawValue), hook.name, numbers, texts: texts, descriptor)
        if answer.result == -Int(ENOTSUP) { return nil }
        guard answer.result >= 0 else { throw PluginError(name, "failed in \(hook.name): \(Self.shown(answer.result))") }
        return answer
    }
    /// Plugins answer -1 for any failure, or an error number.
    private static func shown(_ result: Int) -> String { result == -1 ? "it answered -1 (its own lines in the log say more)" : "\(Errno(Int32(truncatingIfNeeded: -result)))" }
    private func made(_ answer: Answer, _ hook: PluginHook) throws -> FileDescriptor {
        guard let made = answer.descriptor else { throw PluginError(name, "answered \(answer.result) in \(hook.name), which is no open descriptor") }
        return made
    }

    // MARK: the hooks

    package func begin(_ stage: PluginStage, _ session: PluginSession) throws -> Bool {
        self.session = session
        let result = try ask(Int(STASIS_PLUGIN_BEGIN), "init", [Int64(stage.rawValue)]).result
        guard result == 0 else { throw PluginError(name, "refused: its init answered \(result)") }
        // One that knows of the list and is not in it is not needed. One that does not know of it takes part, as with CRIU.
        return wasTold != false || stage != .restore
    }
    package func end(_ stage: PluginStage, _ ending: PluginEnding) throws {
        if death != nil { return }
        _ = try ask(Int(STASIS_PLUGIN_END), "exit", [Int64(stage.rawValue), ending == .failed ? -1 : 0])
        finish()
    }

    package func dump(unixSocket: FileDescriptor, id: UInt32) throws -> Bool { try call(.dumpUnixSocket, [Int64(id)], unixSocket) != nil }
    package func restoreUnixSocket(id: UInt32) throws -> FileDescriptor? {
        try call(.restoreUnixSocket, [Int64(id)]).map { try made($0, .restoreUnixSocket) }
    }
    package func dump(file: FileDescriptor, id: UInt32, of process: ThreadID) throws -> Bool { try call(.dumpFile, [Int64(id)], file) != nil }
    package func restoreFile(id: UInt32) throws -> RestoredByPlugin? {
        guard let answer = try call(.restoreFile, [Int64(id)]) else { return nil }
        return answer.numbers[1] != 0 ? .later : .made(try made(answer, .restoreFile))
    }
    package func dump(mount path: String, id: UInt32) throws -> Bool { try call(.dumpMount, [Int64(id)], texts: [path]) != nil }
    package func restoreMount(id: UInt32, path: String, oldRoot: String) throws -> Bool? {
        try call(.restoreMount, [Int64(id)], texts: [path, oldRoot]).map { $0.numbers[1] != 0 }
    }
    package func dump(link index: Int32, type: Int32, kind: String) throws -> Bool { try call(.dumpLink, [Int64(index), Int64(type)], texts: [kind]) != nil }
    package func claims(mappingOf device: FileDescriptor) throws -> Bool { try call(.claimMapping, [], device) != nil }
    package func update(mappingOf path: String, address: UInt64, offset: UInt64, of process: ThreadID) throws -> UpdatedMapping? {
        guard let answer = try call(.updateMapping, [Int64(bitPattern: address), Int64(bitPattern: offset)], texts: [path]) else { return nil }
        return UpdatedMapping(offset: UInt64(bitPattern: answer.numbers[1]), file: answer.descriptor)
    }
    package func pauseDevices(of process: ThreadID) throws { _ = try call(.pauseDevices, [Int64(process.rawValue)]) }
    package func checkpointDevices(of process: ThreadID) throws { _ = try call(.checkpointDevices, [Int64(process.rawValue)]) }
    package func dumpDevicesLate(of process: ThreadID) throws { _ = try call(.dumpDevicesLate, [Int64(process.rawValue)]) }
    package func resumeDevices(of process: ThreadID) throws { _ = try call(.resumeDevices, [Int64(process.rawValue)]) }
    package func beginRestore() throws { _ = try call(.beginRestore) }
    package func afterForking() throws { _ = try call(.afterForking) }
}
