import CFuzzer
import Cryptography
import Foundation
import Images
import Linux

/// A copy of a sound directory in memory (tmpfs), of which each input replaces one file; and one with the same images encrypted, whose
/// checksums are made right.
private struct Target: Sendable {
    private struct File: Sendable {
        let path: String, original: Data, isSealed: Bool
    }
    private let plain: String, sealed: String
    private let files: [File]
    private let secrets: ImageSecrets

    static let shared = Target()

    init() {
        let golden = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../../ImagesTests/Golden/tree/images").path(percentEncoded: false)
        let scratch = "/dev/shm/fuzz-images-\(getpid())", key = scratch + "/key"
        (plain, sealed) = (scratch + "/plain", scratch + "/sealed")
        let manager = FileManager.default
        do {
            for folder in [plain, sealed] { try manager.createDirectory(atPath: folder, withIntermediateDirectories: true) }
            try Data(repeating: 7, count: 32).write(to: URL(filePath: key))
            secrets = ImageSecrets([try Secret(file: key)])
            let directory = try FileDescriptor.open(sealed, O_RDONLY | O_DIRECTORY)
            let seal = try ImageRecipients([try Recipient(file: key)]).seal(directory)
            for name in try manager.contentsOfDirectory(atPath: golden) {
                let content = try Data(contentsOf: URL(filePath: "\(golden)/\(name)"))
                try content.write(to: URL(filePath: "\(plain)/\(name)"))
                guard let kind = ImageKind.named(name)?.kind, kind.layout != .raw else { continue }
                let writer = try ImageWriter(directory: directory, name: name, seal)
                try writer.appendRaw(Array(content.dropFirst(kind.magic.bytes.count)))
                try writer.finish(sync: false)
            }
            try FileChecksums.write(in: directory, seal)
            files = try [plain, sealed].flatMap { folder in
                try manager.contentsOfDirectory(atPath: folder).sorted().map { File(path: "\(folder)/\($0)", original: try Data(contentsOf: URL(filePath: "\(folder)/\($0)")), isSealed: folder.hasSuffix("sealed")) }
            }
        } catch { fatalError("fuzz-images: \(error)") }
    }

    func run(_ input: UnsafeRawBufferPointer) {
        guard let first = input.first else { return }
        let file = files[Int(first) % files.count], path = URL(filePath: file.path)
        var content = Array(input.dropFirst())
        if file.isSealed {
            // The head and the key image are what a stranger can make; what is inside needs the key.
            if content.count % 2 == 0 { content = Array(file.original.prefix(content.count)).enumerated().map { $1 ^ content[$0] } }
            content += little32(Checksum.of(little64(UInt64(content.count)), after: Checksum.of(content)))
        }
        do {
            try Data(content).write(to: path)
            defer { try? file.original.write(to: path) }
            let directory = try ImageDirectory(path: file.isSealed ? sealed : plain, secrets)
            _ = try? directory.ghost(1)
            _ = try? directory.messageQueues(namespace: 1)
            _ = try? directory.semaphores(namespace: 1)
            _ = try? Verification.sealed(directory).problems()
            _ = try ImageSet(directory).problems()
        } catch {}  // refused: that is what errors are for
    }
}

/// libFuzzer's entry (https://llvm.org/docs/LibFuzzer.html).
@c(LLVMFuzzerTestOneInput)
public func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    Target.shared.run(UnsafeRawBufferPointer(start: bytes, count: count))
    return 0
}
