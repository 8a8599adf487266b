import CLZ4
import CZstd
import Glibc

/// How regions of pages are compressed.
public enum Compression: Equatable, Sendable, CustomStringConvertible {
    case zstd(level: Int32), lz4

    /// In the images (pagemap_head.compression). The level is of no matter for who reads.
    public var number: UInt32 { if case .zstd = self { 1 } else { 2 } }
    public init?(number: UInt32) {
        switch number {
        case 1: self = .zstd(level: Self.usualLevel)
        case 2: self = .lz4
        default: return nil
        }
    }

    /// As on the command line: "zstd", "zstd:7", "lz4".
    public init?(_ text: String) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        switch (parts[0], parts.count) {
        case ("zstd", 1): self = .zstd(level: Self.usualLevel)
        case ("zstd", 2):
            guard let level = Int32(parts[1]), (ZSTD_minCLevel()...ZSTD_maxCLevel()).contains(level) else { return nil }
            self = .zstd(level: level)
        case ("lz4", 1): self = .lz4
        default: return nil
        }
    }
    private static let usualLevel: Int32 = 1
    public var description: String { if case .zstd(let level) = self { "zstd:\(level)" } else { "lz4" } }
}

/// Compresses and decompresses one region after another, by zstd or LZ4. One thread at a time.
@safe public final class Compressor {
    private let method: Compression
    private var compressing: OpaquePointer?, decompressing: OpaquePointer?

    public init(_ method: Compression) { self.method = method }
    deinit {
        unsafe ZSTD_freeCCtx(compressing)
        unsafe ZSTD_freeDCtx(decompressing)
    }

    /// All of `content` into `result`. False where that saves nothing.
    public func compress(_ content: PageBuffer, into result: PageBuffer) -> Bool {
        let source = unsafe content.memory(0..<content.count)
        let count = unsafe result.produce { room in
            switch method {
            case .zstd(let level):
                if unsafe compressing == nil { unsafe compressing = ZSTD_createCCtx() }
                let size = unsafe ZSTD_compressCCtx(compressing, room.baseAddress, room.count, source.baseAddress, source.count, level)
                return ZSTD_isError(size) != 0 ? 0 : size
            case .lz4:
                return unsafe Int(LZ4_compress_default(source.baseAddress, room.baseAddress, Int32(source.count), Int32(room.count)))
            }
        }
        return count > 0 && count < content.count
    }

    /// All of `content`, which must become exactly `length` bytes of `result`. False for what is no compressed region of that length.
    public func decompress(_ content: PageBuffer, into result: PageBuffer, _ length: Int) -> Bool {
        let source = unsafe content.memory(0..<content.count)
        let count = unsafe result.produce { room in
            guard room.count >= length else { return 0 }
            switch method {
            case .zstd:
                if unsafe decompressing == nil { unsafe decompressing = ZSTD_createDCtx() }
                let size = unsafe ZSTD_decompressDCtx(decompressing, room.baseAddress, length, source.baseAddress, source.count)
                return ZSTD_isError(size) != 0 ? 0 : size
            case .lz4:
                return unsafe max(0, Int(LZ4_decompress_safe(source.baseAddress, room.baseAddress, Int32(source.count), Int32(length))))
            }
        }
        return count == length
    }
}
@available(*, unavailable) extension Compressor: Sendable {}
