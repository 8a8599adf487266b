import Foundation
import Testing

/// What the tests run: the products beside the test bundle, or what the environment names.
enum Binaries {
    static let folder = (Bundle.main.executablePath ?? CommandLine.arguments[0] as String).parentFolder
    static let stasis = ProcessInfo.processInfo.environment["STASIS_BINARY"] ?? folder + "/stasis"
    static let workload = ProcessInfo.processInfo.environment["WORKLOAD_BINARY"] ?? folder + "/workload"
}

extension String {
    var parentFolder: String { (self as NSString).deletingLastPathComponent }
    var words: [String] { split(separator: " ").map(String.init) }
    var trimmed: String { trimmingCharacters(in: .whitespacesAndNewlines) }
    /// The whole file, or nil where it can't be read.
    static func contents(of path: String) -> String? {
        FileManager.default.contents(atPath: path).map { String(decoding: $0, as: UTF8.self) }
    }
}

/// A failure in words, with everything that its reader needs.
struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// Tries every 10 ms until `condition` holds.
func eventually(within seconds: Double = 10, _ condition: () throws -> Bool) rethrows -> Bool {
    let end = Date().addingTimeInterval(seconds)
    while true {
        if try condition() { return true }
        if Date() > end { return false }
        usleep(10_000)
    }
}

func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }
