import Foundation
import ImageMessages
import Images
import Linux
import SwiftProtobuf
import Testing

@Suite("golden images of CRIU 4.2") struct GoldenTests {
    @Test("decode and encode to the same bytes", arguments: Golden.all)
    func sameBytes(golden: Golden) throws {
        let directory = try golden.directory
        let images = try golden.messageImages
        #expect(images.count >= 10)
        for (name, kind) in images {
            var bytes = kind.magic.bytes
            for piece in try pieces(name, kind, in: directory) {
                switch piece {
                case .message(let message): bytes += try ImageWriter.frame(message)
                case .bytes(let payload): bytes += payload
                }
            }
            #expect(try bytes == directory.contents(of: name), "\(golden)/\(name)")
        }
    }

    @Test("every message has the values crit shows", arguments: Golden.all)
    func sameValues(golden: Golden) throws {
        let directory = try golden.directory
        var compared = 0
        for (name, kind) in try golden.messageImages {
            // crit swallows the second segment (golden/README.md) and interleaves messages with queues
            if name.hasPrefix("ipcns-shm") || name.hasPrefix("ipcns-msg") { continue }
            guard let text = FileManager.default.contents(atPath: "\(golden.decodings)/\(name).json") else { continue }
            let decoded = try #require(try JSONSerialization.jsonObject(with: text) as? [String: Any])
            let expected = try #require(decoded["entries"] as? [[String: Any]])
            var options = JSONEncodingOptions()
            options.preserveProtoFieldNames = true
            options.alwaysPrintInt64sAsNumbers = true
            var found: [[String: Any]] = []
            for case .message(let message) in try pieces(name, kind, in: directory) {
                let json = try JSONSerialization.jsonObject(with: Data(try message.jsonUTF8Bytes(options: options) as [UInt8]))
                found.append(try #require(json as? [String: Any]))
            }
            #expect(found.count == expected.count, "\(golden)/\(name)")
            for (index, (ours, theirs)) in zip(found, expected).enumerated() {
                let difference = difference(ours, theirs, "")
                #expect(difference == nil, "\(golden)/\(name) entry \(index): \(difference ?? "")")
                compared += 1
            }
        }
        #expect(compared >= 10)
    }

    /// Where two decodings differ. crit adds `extra` for payloads, breaks base64 into lines and writes unix names its own way.
    private func difference(_ ours: Any, _ theirs: Any, _ path: String) -> String? {
        switch (ours, theirs) {
        case (let ours as [String: Any], let theirs as [String: Any]):
            for key in Set(ours.keys).union(theirs.keys).sorted() where key != "extra" {
                if path.hasSuffix(".usk"), key == "name" { continue }
                guard let theirValue = theirs[key] else { return "\(path).\(key) only here" }
                if let list = theirValue as? [Any], list.isEmpty, ours[key] == nil { continue }
                guard let ourValue = ours[key] else { return "\(path).\(key) is missing" }
                if let found = difference(ourValue, theirValue, "\(path).\(key)") { return found }
            }
            return nil
        case (let ours as [Any], let theirs as [Any]):
            if ours.count != theirs.count { return "\(path): \(ours.count) elements, \(theirs.count) expected" }
            for (index, pair) in zip(ours, theirs).enumerated() {
                if let found = difference(pair.0, pair.1, "\(path)[\(index)]") { return found }
            }
            return nil
        case (let ours as String, let theirs as String):
            return ours == theirs || ours == theirs.replacingOccurrences(of: "\n", with: "") ? nil : "\(path): \(ours), \(theirs) expected"
        default:
            return "\(ours)" == "\(theirs)" ? nil : "\(path): \(ours), \(theirs) expected"
        }
    }

    @Test("names say what kind an image is")
    func names() {
        #expect(ImageKind.named("core-42.img")?.number == 42)
        #expect(ImageKind.named("tcp-stream-1f.img")?.number == 31)
        #expect(ImageKind.named("pagemap-shmem-7.img")?.kind.prefix == "pagemap-shmem-")
        #expect(ImageKind.named("inventory.img.tmp")?.kind.prefix == "inventory.img")
        for name in ["core-.img", "core-042.img", "core-x.img", "core-42.img.bak", "dump.log", "tcp-stream-1F.img", "pages-1.img.tmp.tmp"] {
            #expect(ImageKind.named(name) == nil, "\(name)")
        }
    }
}
