import Foundation

/// A process as /proc shows it (proc_pid_stat(5), proc_pid_status(5)).
struct Task {
    let pid: pid_t
    private let fields: [Substring]

    init?(_ pid: pid_t) {
        guard let text = String.contents(of: "/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else { return nil }
        self.pid = pid
        fields = text[text.index(end, offsetBy: 2)...].split(separator: " ")
        guard fields.count > 3 else { return nil }
    }

    static var all: [Task] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { pid_t($0) }.compactMap { Task($0) }
    }

    var state: String { String(fields[0]) }
    var parent: pid_t { pid_t(fields[1]) ?? 0 }
    var session: pid_t { pid_t(fields[3]) ?? 0 }
    var environment: String { String.contents(of: "/proc/\(pid)/environ") ?? "" }
    var commandLine: String { (String.contents(of: "/proc/\(pid)/cmdline") ?? "").replacingOccurrences(of: "\0", with: " ") }

    func status(_ field: String, of thread: String? = nil) -> String? {
        let path = thread.map { "/proc/\(pid)/task/\($0)/status" } ?? "/proc/\(pid)/status"
        let line = String.contents(of: path)?.split(separator: "\n").first { $0.hasPrefix(field + ":") }
        return line.map { $0.dropFirst(field.count + 1).trimmingCharacters(in: .whitespaces) }
    }

    /// Everything a dump could leave behind in a task, as text: states, tracers, masks, mappings, descriptors.
    var condition: String {
        let folder = "/proc/\(pid)"
        let threads = ((try? FileManager.default.contentsOfDirectory(atPath: folder + "/task")) ?? []).sorted()
        var lines: [String] = []
        for thread in threads {
            let letter = status("State", of: thread)?.prefix(1) ?? "?"
            let stopped = letter == "T" || letter == "t"
            lines.append("thread \(thread) \(stopped ? "stopped" : "runs") tracer \(status("TracerPid", of: thread) ?? "?")"
                + " blocked \(status("SigBlk", of: thread) ?? "?") pending \(status("SigPnd", of: thread) ?? "?")")
        }
        lines.append("ignored \(status("SigIgn") ?? "?") caught \(status("SigCgt") ?? "?") pending \(status("ShdPnd") ?? "?")")
        lines.append("seccomp \(status("Seccomp") ?? "?")")
        lines.append(String.contents(of: folder + "/maps") ?? "no maps")
        let descriptors = ((try? FileManager.default.contentsOfDirectory(atPath: folder + "/fd")) ?? []).sorted()
        for descriptor in descriptors {
            let target = (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/fd/\(descriptor)")) ?? "?"
            lines.append("fd \(descriptor) \(target)")
        }
        return lines.joined(separator: "\n")
    }
}
