public import Linux

/// One for whom something is encrypted: whoever has the secret that belongs to it (`Secret`). A certificate or public key, or a key that both have.
public struct Recipient: Sendable {
    enum Key: Sendable { case shared(SymmetricKey), asymmetric(AsymmetricKey) }
    let key: Key
    /// For people: "certificate backup (RSA 3072, 5f0c22aa)", "key file 81d2ffb0".
    public let name: String
    let id: [UInt8]
    /// What is strange about the file, if anything.
    public let warning: String?

    /// - Parameter path: a certificate or public key in PEM, or a key file: 32 bytes, or 64 hexadecimal digits.
    public init(file path: String) throws {
        let (bytes, isOpen) = try KeyFile.read(path)
        if let shared = KeyFile.shared(bytes) {
            (key, id) = (.shared(shared), KeyFile.id(of: shared))
            name = "key file \(KeyFile.short(id))"
            warning = isOpen ? KeyFile.isOpen(path) : nil
            return
        }
        guard AsymmetricKey.contains("-----BEGIN ", bytes) else { throw KeyError.nothing(path) }
        if AsymmetricKey.contains("PRIVATE KEY-----", bytes), !AsymmetricKey.contains("CERTIFICATE-----", bytes) {
            throw KeyError("\(path) is a private key", remedy: "the certificate, or public key, that belongs to it: only who reads needs the private key (--decrypt)")
        }
        switch AsymmetricKey.publicKey(inPEM: bytes) {
        case .none(let reason): throw KeyError("\(path) is neither certificate nor public key in PEM (\(reason))", remedy: KeyError.recipients)
        case .unfit: throw KeyError("the key in \(path) is only for signatures", remedy: "one for RSA, a NIST curve or X25519")
        case .key(let found, let owner, let hasExpired):
            if found.method == .rsa, found.bits < 2048 { throw KeyError("the key in \(path) is of \(found.bits) bits, which is too short", remedy: "RSA of 2048 bits or more") }
            (key, id) = (.asymmetric(found), found.id)
            name = "\(owner.map { "certificate \($0)" } ?? "public key") (\(found.kind), \(KeyFile.short(id)))"
            warning = hasExpired ? "\(path) has expired; it is used all the same" : nil
        }
    }

    /// - Parameter context: what the key is for; must be the same when it is taken out.
    public func wrap(_ content: SymmetricKey, context: [UInt8]) throws -> WrappedKey {
        switch key {
        case .shared(let shared):
            let salt = Random.bytes(32)
            return WrappedKey(method: .shared, name: name, id: id, material: salt, sealed: WrappedKey.key(shared.bytes, salt, context).seal(content.bytes, nonce: WrappedKey.nonce, context: context))
        case .asymmetric(let key) where key.method == .rsa:
            guard let sealed = key.encrypt(content.bytes, label: context) else { throw KeyError("nothing can be encrypted for \(name): \(OpenSSL.reason)") }
            return WrappedKey(method: .rsa, name: name, id: id, material: [], sealed: sealed)
        case .asymmetric(let key):
            guard let pair = key.newPair(), let common = pair.agree(with: key) else { throw KeyError("nothing can be encrypted for \(name): \(OpenSSL.reason)") }
            let material = pair.publicBytes
            return WrappedKey(method: .exchange, name: name, id: id, material: material, sealed: WrappedKey.key(common, material + id, context).seal(content.bytes, nonce: WrappedKey.nonce, context: context))
        }
    }
}

/// What opens what was encrypted for its recipient: a private key, or a key that both have.
public struct Secret: Sendable {
    private let key: Recipient.Key
    private let id: [UInt8]
    /// The file, as it was read.
    public let bytes: [UInt8]
    /// What is strange about the file, if anything.
    public let warning: String?

    /// - Parameter path: a private key in PEM without a pass phrase, or a key file: 32 bytes, or 64 hexadecimal digits.
    public init(file path: String) throws {
        let (bytes, isOpen) = try KeyFile.read(path)
        try self.init(bytes, path, warning: isOpen ? KeyFile.isOpen(path) : nil)
    }

    /// From what another process has read.
    public init(_ bytes: [UInt8]) throws { try self.init(bytes, "the key", warning: nil) }

    private init(_ bytes: [UInt8], _ path: String, warning: String?) throws {
        (self.bytes, self.warning) = (bytes, warning)
        if let shared = KeyFile.shared(bytes) {
            (key, id) = (.shared(shared), KeyFile.id(of: shared))
            return
        }
        guard AsymmetricKey.contains("-----BEGIN ", bytes) else { throw KeyError.nothing(path) }
        if AsymmetricKey.contains("ENCRYPTED", bytes) { throw KeyError("\(path) has a pass phrase, and nobody is asked for one", remedy: "openssl pkey -in \(path) -out FILE, where only you can read FILE") }
        guard AsymmetricKey.contains("PRIVATE KEY-----", bytes) else { throw KeyError("\(path) is not a private key", remedy: "the private key that belongs to it") }
        switch AsymmetricKey.privateKey(inPEM: bytes) {
        case .none(let reason): throw KeyError("\(path) is no private key in PEM (\(reason))", remedy: KeyError.secrets)
        case .unfit: throw KeyError("the key in \(path) is only for signatures", remedy: "the private key of one of those for whom the images are encrypted")
        case .key(let found, _, _): (key, id) = (.asymmetric(found), found.id)
        }
    }

    public func belongs(to recipient: Recipient) -> Bool { recipient.id == id }
    /// Whether what was wrapped is for whoever has this.
    public func opens(_ wrapped: WrappedKey) -> Bool { wrapped.id == id }

    /// Nil for what is for somebody else, or has changed.
    public func unwrap(_ wrapped: WrappedKey, context: [UInt8]) -> SymmetricKey? {
        guard opens(wrapped) else { return nil }
        let content: [UInt8]?
        switch (wrapped.method, key) {
        case (.shared, .shared(let shared)): content = WrappedKey.key(shared.bytes, wrapped.material, context).open(wrapped.sealed, nonce: WrappedKey.nonce, context: context)
        case (.rsa, .asymmetric(let key)): content = key.decrypt(wrapped.sealed, label: context)
        case (.exchange, .asymmetric(let key)):
            guard let other = AsymmetricKey.exchanged(wrapped.material), let common = key.agree(with: other) else { return nil }
            content = WrappedKey.key(common, wrapped.material + wrapped.id, context).open(wrapped.sealed, nonce: WrappedKey.nonce, context: context)
        default: return nil
        }
        return content.flatMap(SymmetricKey.init)
    }
}

/// A key as one recipient gets it out again. In bytes: the method, then four texts, each behind its length (little-endian words of 32 bits).
public struct WrappedKey: Equatable, Sendable {
    enum Method: UInt32 { case shared = 1, rsa, exchange }
    let method: Method
    /// Of the recipient, for people.
    public let name: String
    let id: [UInt8]
    /// A salt, or the public half of the pair that was made for this key alone.
    let material: [UInt8]
    let sealed: [UInt8]

    init(method: Method, name: String, id: [UInt8], material: [UInt8], sealed: [UInt8]) {
        (self.method, self.name, self.id, self.material, self.sealed) = (method, name, id, material, sealed)
    }

    /// Each is used once.
    static let nonce = [UInt8](repeating: 0, count: SymmetricKey.nonceSize)
    static func key(_ secret: [UInt8], _ salt: [UInt8], _ context: [UInt8]) -> SymmetricKey {
        SymmetricKey(HKDF.sha256(secret, salt: salt, info: Array("stasis wrapped key ".utf8) + context, count: SymmetricKey.size))!
    }

    public var bytes: [UInt8] {
        var bytes = little32(method.rawValue)
        for text in [Array(name.utf8), id, material, sealed] { bytes.append(sized: text) }
        return bytes
    }

    /// Nil for what is none.
    public init?(bytes: [UInt8]) {
        guard bytes.count >= 4, let method = Method(rawValue: bytes.word(at: 0)) else { return nil }
        var texts = [[UInt8]](), at = 4
        for _ in 0..<4 {
            guard let text = bytes.sized(at: &at) else { return nil }
            texts.append(text)
        }
        guard at == bytes.count else { return nil }
        self.init(method: method, name: String(decoding: texts[0], as: UTF8.self), id: texts[1], material: texts[2], sealed: texts[3])
    }
}

/// Why a file is of no use as a key.
public struct KeyError: RemediableError, Equatable, CustomStringConvertible {
    public let cause: String
    public let remedy: String?
    init(_ cause: String, remedy: String? = nil) { (self.cause, self.remedy) = (cause, remedy) }
    public var description: String { cause }

    static let recipients = "a certificate in PEM, or a key file: head -c 32 /dev/urandom >FILE"
    static let secrets = "a private key in PEM, or the key file of the dump"
    static func nothing(_ path: String) -> KeyError { KeyError("\(path) is no key: neither 32 bytes, nor 64 hexadecimal digits, nor PEM", remedy: recipients) }
}

enum KeyFile {
    /// And whether others may read it.
    static func read(_ path: String) throws -> (bytes: [UInt8], isOpen: Bool) {
        do throws(SyscallError) {
            let file = try FileDescriptor.open(path, 0)
            let bytes = try file.readAll()
            guard bytes.count <= 1 << 20 else { throw SyscallError("read", .path(path), 27 /* EFBIG */) }
            return (bytes, try file.status().mode & 0o077 != 0)
        } catch { throw KeyError("\(path) can't be read: \(error.errno)", remedy: "a file that you may read") }
    }

    static func shared(_ bytes: [UInt8]) -> SymmetricKey? {
        if let key = SymmetricKey(bytes) { return key }
        let digits = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isWhitespace)
        guard digits.count == 1, digits[0].utf8.count == 64, digits[0].allSatisfy(\.isHexDigit) else { return nil }
        let text = Array(digits[0].utf8)
        return SymmetricKey(stride(from: 0, to: 64, by: 2).compactMap { UInt8(String(decoding: text[$0..<($0 + 2)], as: UTF8.self), radix: 16) })
    }

    /// Tells nothing of the key.
    static func id(of key: SymmetricKey) -> [UInt8] { HKDF.sha256(key.bytes, salt: [], info: Array("stasis key id".utf8), count: 32) }
    static func short(_ id: [UInt8]) -> String { Digest.text(Array(id.prefix(4))) }
    static func isOpen(_ path: String) -> String { "the key in \(path) may be read by others: chmod 600 \(path)" }
}
