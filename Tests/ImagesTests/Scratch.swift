import Foundation
import Images

/// A copy of a golden directory that may be written to; it goes with the value.
final class Scratch {
    let path: String
    let directory: ImageDirectory

    init(_ golden: Golden, withParent: Bool = false) throws {
        let manager = FileManager.default
        path = NSTemporaryDirectory() + "stasis-images-\(UUID().uuidString)"
        try manager.createDirectory(atPath: path, withIntermediateDirectories: true)
        for name in try golden.directory.names() where name != "parent" {
            try manager.copyItem(atPath: "\(golden.images)/\(name)", toPath: "\(path)/\(name)")
            try manager.setAttributes([.posixPermissions: 0o644], ofItemAtPath: "\(path)/\(name)")
        }
        if withParent { try manager.createSymbolicLink(atPath: "\(path)/parent", withDestinationPath: "\(golden.images)/../images-1") }
        directory = try ImageDirectory(path: path)
    }

    func write(_ name: String, _ bytes: [UInt8]) throws { try Data(bytes).write(to: URL(filePath: "\(path)/\(name)")) }
    func remove(_ name: String) throws { try FileManager.default.removeItem(atPath: "\(path)/\(name)") }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// A generator with a seed, so that a failure can be repeated (SplitMix64).
struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
        return word ^ (word >> 31)
    }
}
