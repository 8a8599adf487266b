import Foundation
import ImageMessages
import Images
import Linux
import SwiftProtobuf

/// Image directories dumped by CRIU 4.2, with crit's decodings (Golden/, described in docs of the format).
struct Golden: Sendable, CustomStringConvertible {
    private(set) var images: String
    let decodings: String
    static let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Golden").path(percentEncoded: false)
    static let names = ["simple", "threads", "tree", "files", "sockets", "memory", "cgroup", "namespaces"]
    static let all = names.map { Golden("\($0)/images", "\($0)/json") }
        + [Golden("incremental/images-1", "incremental/json-1"), incremental]
    /// A second dump, whose `parent` is the first. That symbolic link is made here, in a copy: not every way a checkout travels keeps links.
    static let incremental: Golden = {
        let files = FileManager.default
        let copy = files.temporaryDirectory.appending(path: "stasis-golden-\(getpid())")
        do {
            try? files.removeItem(at: copy)
            try files.copyItem(atPath: "\(root)/incremental", toPath: copy.path)
            try files.createSymbolicLink(atPath: "\(copy.path)/images-2/parent", withDestinationPath: "../images-1")
        } catch { fatalError("\(copy.path): \(error)") }
        atexit { try? FileManager.default.removeItem(at: FileManager.default.temporaryDirectory.appending(path: "stasis-golden-\(getpid())")) }
        var golden = Golden("incremental/images-2", "incremental/json-2")
        golden.images = "\(copy.path)/images-2"
        return golden
    }()

    init(_ images: String, _ decodings: String) { (self.images, self.decodings) = ("\(Self.root)/\(images)", "\(Self.root)/\(decodings)") }
    var description: String { String(decodings.dropFirst(Self.root.count + 1)).replacingOccurrences(of: "json", with: "images") }
    var directory: ImageDirectory { get throws { try ImageDirectory(path: images) } }

    /// Names of the images that hold messages.
    var messageImages: [(name: String, kind: ImageKind)] {
        get throws {
            try directory.names().compactMap { name in
                ImageKind.named(name).flatMap { $0.kind.message == nil ? nil : (name, $0.kind) }
            }
        }
    }
}

/// What an image consists of: messages and the bytes between them, in file order.
enum Piece {
    case message(any Message)
    case bytes([UInt8])
}

/// Takes an image apart as its kind says and without looking at the functions under test that do the same.
func pieces(_ name: String, _ kind: ImageKind, in directory: ImageDirectory) throws -> [Piece] {
    var reader = try directory.reader(name)
    var found: [Piece] = []
    func padded(_ count: UInt64) -> UInt64 { (count + 7) / 8 * 8 }
    switch kind.layout {
    case .raw: break
    case .single, .sequence: while let message = try next(kind.message!, &reader) { found.append(.message(message)) }
    case .pagemap:
        found.append(.message(try reader.single(PagemapHead.self)))
        while let message = try reader.next(PagemapEntry.self) { found.append(.message(message)) }
    case .payload:
        while let message = try next(kind.message!, &reader) {
            found.append(.message(message))
            var counts: [UInt64] = []
            switch message {
            case let entry as PipeDataEntry: counts = [UInt64(entry.bytes)]
            case let entry as SkPacketEntry: counts = [UInt64(entry.length)]
            case let entry as TcpStreamEntry: counts = [UInt64(entry.inqLen), UInt64(entry.outqLen)]
            case let entry as IpcSemEntry: counts = [padded(UInt64(entry.nsems) * 2)]
            case let entry as IpcMsgEntry:
                for _ in 0..<entry.qnum {
                    let message = try reader.single(IpcMsg.self)
                    found += [.message(message), .bytes(try reader.payload(padded(UInt64(message.msize))))]
                }
            case let entry as GhostFileEntry:
                if entry.chunks {
                    while let chunk = try reader.next(GhostChunkEntry.self) { found += [.message(chunk), .bytes(try reader.payload(chunk.len))] }
                } else {
                    counts = [reader.remaining]
                }
            default: break
            }
            for count in counts { found.append(.bytes(try reader.payload(count))) }
        }
    }
    return found
}

private func next<M: Message>(_ type: M.Type, _ reader: inout ImageReader) throws -> (any Message)? { try reader.next(type) }
