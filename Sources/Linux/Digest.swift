import CLinux

/// SHA-256 of a file's content.
public enum Digest {
    public static func sha256(of file: FileDescriptor) throws(SyscallError) -> [UInt8] {
        var hash = clinux_sha256()
        unsafe clinux_sha256_begin(&hash)
        var at = 0
        while true {
            let piece = try file.read(1 << 20, at: at)
            if piece.isEmpty { break }
            unsafe clinux_sha256_add(&hash, piece, piece.count)
            at += piece.count
        }
        var digest = [UInt8](repeating: 0, count: 32)
        unsafe clinux_sha256_end(&hash, &digest)
        return digest
    }

    public static func text(_ digest: [UInt8]) -> String { digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }
}
