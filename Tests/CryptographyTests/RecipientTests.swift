import Cryptography
import Foundation
import Linux
import Testing

/// Files that go with the value, made by openssl(1).
private final class KeyFiles {
    let folder = NSTemporaryDirectory() + "stasis-keys-\(UUID().uuidString)"

    init(_ script: String) throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let process = Process()
        process.executableURL = URL(filePath: "/bin/bash")
        process.arguments = ["-euc", "umask 077; exec 2>/dev/null; " + script]
        process.currentDirectoryURL = URL(filePath: folder)
        try process.run()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(script)")
    }
    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func recipient(_ name: String) throws -> Recipient { try Recipient(file: "\(folder)/\(name)") }
    func secret(_ name: String) throws -> Secret { try Secret(file: "\(folder)/\(name)") }
    static func pair(_ kind: String, _ name: String = "mine") -> String { "openssl req -x509 -newkey \(kind) -nodes -keyout \(name).key -out \(name).pem -subj /CN=\(name) -days 2; " }
}

@Suite("recipients") struct RecipientTests {
    private let context = Array("what it is for".utf8)

    @Test("of every kind get their key, others nothing", arguments: ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-256", "ec -pkeyopt ec_paramgen_curve:P-384", "ec -pkeyopt ec_paramgen_curve:P-521"])
    func certificates(kind: String) throws {
        let files = try KeyFiles(KeyFiles.pair(kind) + KeyFiles.pair(kind, "other")), key = SymmetricKey()
        let recipient = try files.recipient("mine.pem"), wrapped = try recipient.wrap(key, context: context)
        #expect(recipient.name.hasPrefix("certificate mine (") && recipient.warning == nil)
        try check(wrapped, opens: key, by: try files.secret("mine.key"), not: try files.secret("other.key"))
        #expect(try recipient.wrap(key, context: context) != wrapped)
    }

    @Test("by X25519, as a public key") func curve() throws {
        let files = try KeyFiles("for n in mine other; do openssl genpkey -algorithm x25519 -out $n.key; openssl pkey -in $n.key -pubout -out $n.pub; done"), key = SymmetricKey()
        let recipient = try files.recipient("mine.pub")
        #expect(recipient.name.hasPrefix("public key (X25519, "))
        try check(try recipient.wrap(key, context: context), opens: key, by: try files.secret("mine.key"), not: try files.secret("other.key"))
    }

    @Test("by a key that both have, in bytes or digits") func shared() throws {
        let files = try KeyFiles("head -c 32 /dev/urandom >raw; od -An -v -tx1 raw | tr -d ' \\n' >digits; echo >>digits; head -c 32 /dev/urandom >other"), key = SymmetricKey()
        for (one, other) in [("raw", "digits"), ("digits", "raw")] {
            try check(try files.recipient(one).wrap(key, context: context), opens: key, by: try files.secret(other), not: try files.secret("other"))
        }
        #expect(try files.recipient("raw").name == files.recipient("digits").name)
        #expect(try files.secret("raw").warning == nil)
        _ = unsafe chmod(files.folder + "/raw", 0o644)
        let (secret, recipient) = (try files.secret("raw"), try files.recipient("raw"))
        #expect(secret.warning?.contains("may be read by others") == true && recipient.warning != nil)
    }

    private func check(_ wrapped: WrappedKey, opens key: SymmetricKey, by secret: Secret, not other: Secret) throws {
        let wrapped = try #require(WrappedKey(bytes: wrapped.bytes))
        #expect(secret.unwrap(wrapped, context: context) == key)
        #expect(try Secret(secret.bytes).unwrap(wrapped, context: context) == key)
        #expect(other.unwrap(wrapped, context: context) == nil && secret.unwrap(wrapped, context: context + [0]) == nil)
        // The name alone is for people.
        let bytes = wrapped.bytes, name = 8..<(8 + wrapped.name.utf8.count)
        for place in bytes.indices where !name.contains(place) {
            var changed = bytes
            changed[place] ^= 0x10
            if let lying = WrappedKey(bytes: changed) { #expect(secret.unwrap(lying, context: context) == nil, "byte \(place) changed") }
        }
        for length in bytes.indices { #expect(WrappedKey(bytes: Array(bytes[..<length])) == nil) }
    }

    @Test("that are none are refused in words") func refused() throws {
        let files = try KeyFiles(
            KeyFiles.pair("rsa:2048") + KeyFiles.pair("rsa:1024", "short") + KeyFiles.pair("ed25519", "signer")
                + "openssl pkey -in mine.key -aes256 -passout pass:secret -out locked.key; echo hello >text; : >empty; echo '-----BEGIN CERTIFICATE-----' >broken.pem; echo '-----BEGIN PRIVATE KEY-----' >broken.key")
        for (name, words) in [
            "short.pem": "too short", "signer.pem": "only for signatures", "text": "is no key", "empty": "is no key", "none": "can't be read", "broken.pem": "neither certificate", "mine.key": "is a private key",
        ] { #expect { try files.recipient(name) } throws: { "\($0)".contains(words) && ($0 as? KeyError)?.remedy != nil } }
        for (name, words) in ["locked.key": "has a pass phrase", "mine.pem": "is not a private key", "text": "is no key", "none": "can't be read", "broken.key": "is no private key", "signer.key": "only for signatures"] {
            #expect { try files.secret(name) } throws: { "\($0)".contains(words) && ($0 as? KeyError)?.remedy != nil }
        }
    }
}
