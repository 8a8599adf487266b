import Cryptography
import Foundation
import Linux
import Testing

@Suite("TLS") struct TLSTests {
    /// Files with secrets, which go with the value.
    private final class Keys {
        let folder = NSTemporaryDirectory() + "stasis-keys-\(UUID().uuidString)"
        init() throws { try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true) }
        deinit { try? FileManager.default.removeItem(atPath: folder) }
        func file(_ name: String, _ content: String, mode: Int = 0o600) throws -> String {
            let path = folder + "/" + name
            try Data(content.utf8).write(to: URL(fileURLWithPath: path))
            try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
            return path
        }
        func credentials(_ secret: String) throws -> TLSCredentials { try TLSCredentials(sharedKey: try file(secret, secret)) }
    }
    private func words(_ body: () throws -> Void) -> String {
        do { try body() } catch { return "\(error)" }
        return ""
    }
    private let secret = "a secret that both have"

    /// Runs both ends of a connection. Answers how they ended, in words; none where well.
    /// - Parameter flipping: which byte from the client is changed on its way.
    private func connect(
        _ client: TLSCredentials, _ server: TLSCredentials, flipping: Int? = nil, _ asClient: (any ByteStream) throws -> Void = { _ in },
        _ asServer: @escaping @Sendable (any ByteStream) throws -> Void = { _ in }
    ) throws -> (client: String, server: String) {
        let (a, b) = try FileDescriptor.socketPair(1, 1), (c, d) = try FileDescriptor.socketPair(1, 1)
        let workers = Workers(3)
        workers.run {
            var at = 0
            while var bytes = try? b.read(65536), !bytes.isEmpty {
                if let flipping, (at..<(at + bytes.count)).contains(flipping) { bytes[flipping - at] ^= 1 }
                at += bytes.count
                guard (try? c.write(bytes)) != nil else { break }
            }
            try? c.shutdown(1)
        }
        workers.run {
            while let bytes = try? c.read(65536), !bytes.isEmpty { guard (try? b.write(bytes)) != nil else { break } }
            try? b.shutdown(1)
        }
        workers.run {
            defer { try? d.shutdown(2) }
            try asServer(try server.accept(d))
        }
        let clientWords = words {
            defer { try? a.shutdown(2) }
            try asClient(try client.connect(a, to: nil))
        }
        return (clientWords, words { try workers.finish() })
    }

    @Test("bytes come as they went, in both directions, and the end is the end") func bytes() throws {
        let keys = try Keys(), credentials = try keys.credentials(secret)
        let much = (0..<3_000_017).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        let ends = try connect(credentials, credentials) { stream in
            let buffer = PageBuffer(much.count)
            buffer.append(much)
            try buffer.send(apartAt: [0, 32, 4128, 1 << 20], over: stream)
            #expect(try buffer.receive(much.count, from: stream) && buffer.bytes(0..<much.count) == much)
            stream.sayEnd()
        } _: { stream in
            // A byte of a record, the others of which wait where poll(2) does not see them.
            #expect(try stream.readSome(1) == [much[0]] && stream.hasMore)
            let buffer = PageBuffer(much.count)
            #expect(try buffer.receive(much.count - 1, from: stream) && buffer.bytes(0..<(much.count - 1)) == Array(much[1...]))
            try stream.writeAll(much)
            #expect(try stream.readSome(1) == [])
            stream.sayEnd()
        }
        #expect(ends == ("", ""))
    }

    @Test("another key is none: both ends say so") func otherKey() throws {
        let keys = try Keys()
        let ends = try connect(try keys.credentials(secret), try keys.credentials("the secret of somebody"))
        #expect(ends.client.contains("it has another key") && ends.server.contains("it has another key"), "\(ends)")
    }

    @Test("what is changed on its way is not taken") func changed() throws {
        let keys = try Keys(), credentials = try keys.credentials(secret)
        let ends = try connect(credentials, credentials, flipping: 5000) { stream in
            try stream.writeAll([UInt8](repeating: 7, count: 20000))
            _ = try stream.readSome(1)
        } _: { stream in
            let buffer = PageBuffer()
            _ = try buffer.receive(20000, from: stream)
            Issue.record("taken")
        }
        #expect(ends.server == "what came was changed on its way" && !ends.client.isEmpty, "\(ends)")
    }

    @Test("who says something else than TLS, or nothing more, is told from who knows no key", arguments: ["nonsense that is no TLS at all", ""]) func strangers(says: String) throws {
        let keys = try Keys(), credentials = try keys.credentials(secret)
        let (a, b) = try FileDescriptor.socketPair(1, 1)
        try a.write(Array(says.utf8))
        try a.shutdown(1)
        let error = words { _ = try credentials.accept(b) }
        #expect(error == (says.isEmpty ? "it has closed the connection" : "what it says is no TLS"))
    }

    @Test("a key that others may read, or guess, is refused") func badKeys() throws {
        let keys = try Keys()
        let open = try keys.file("open", secret, mode: 0o640), short = try keys.file("short", "123456789012345")
        #expect(words { _ = try TLSCredentials(sharedKey: open) } == "the key in \(open) may be read by others")
        #expect(words { _ = try TLSCredentials(sharedKey: short) } == "the key in \(short) is too short")
        #expect(words { _ = try TLSCredentials(sharedKey: keys.folder + "/none") }.contains("No such file"))
    }

    @Test("files that hold no certificate and no key are named") func badFiles() throws {
        let keys = try Keys()
        var files = TLSCredentials.Files()
        files.certificate = try keys.file("cert", "no certificate")
        #expect(words { _ = try TLSCredentials(files, verifiesName: true, trustsSystem: false) }.hasPrefix("the certificate \(files.certificate) is none in PEM"))
        files.certificate = keys.folder + "/none"
        #expect(words { _ = try TLSCredentials(files, verifiesName: true, trustsSystem: false) } == "the certificate \(files.certificate) can't be read: No such file or directory (ENOENT)")
    }
}
