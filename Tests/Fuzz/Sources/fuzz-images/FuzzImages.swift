import CFuzzer
import Foundation
import Images

/// A copy of a sound directory in memory (tmpfs), of which each input replaces one file.
private struct Target: Sendable {
    let path: String
    let names: [String]
    let originals: [Data]

    static let shared = Target()

    init() {
        let golden = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../../ImagesTests/Golden/tree/images").path(percentEncoded: false)
        path = "/dev/shm/fuzz-images-\(getpid())"
        let manager = FileManager.default
        do {
            try manager.createDirectory(atPath: path, withIntermediateDirectories: true)
            names = try manager.contentsOfDirectory(atPath: golden).sorted()
            originals = try names.map { [path] name in
                let content = try Data(contentsOf: URL(filePath: "\(golden)/\(name)"))
                try content.write(to: URL(filePath: "\(path)/\(name)"))
                return content
            }
        } catch { fatalError("fuzz-images: \(error)") }
    }

    func run(_ input: UnsafeRawBufferPointer) {
        guard let first = input.first else { return }
        let index = Int(first) % names.count
        let file = URL(filePath: "\(path)/\(names[index])")
        do {
            try Data(input.dropFirst()).write(to: file)
            defer { try? originals[index].write(to: file) }
            let directory = try ImageDirectory(path: path)
            _ = try? directory.ghost(1)
            _ = try? directory.messageQueues(namespace: 1)
            _ = try? directory.semaphores(namespace: 1)
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
