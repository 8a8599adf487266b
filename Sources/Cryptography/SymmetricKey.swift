import COpenSSL
public import Linux

/// A key of 256 bits. What it seals with AES-256-GCM (NIST SP 800-38D) nobody without it can read, or change without being found out.
/// A nonce must never be used twice with one key.
public struct SymmetricKey: Equatable, Sendable {
    public static let size = 32
    public static let nonceSize = 12
    /// By how many bytes what is sealed is longer: the tag, which stands behind it.
    public static let overhead = 16
    let bytes: [UInt8]

    public init?(_ bytes: [UInt8]) {
        guard bytes.count == Self.size else { return nil }
        self.bytes = bytes
    }
    /// A new one.
    public init() { bytes = Random.bytes(Self.size) }

    /// A key for one purpose; who knows it does not know this one (HKDF-SHA256).
    public func derived(salt: [UInt8], for purpose: [UInt8]) -> SymmetricKey { SymmetricKey(HKDF.sha256(bytes, salt: salt, info: purpose, count: Self.size))! }

    // MARK: AES-256-GCM

    /// - Parameter context: goes along unsealed; must be the same when it is opened.
    public func seal(_ content: [UInt8], nonce: [UInt8], context: [UInt8] = []) -> [UInt8] {
        var sealed = [UInt8](repeating: 0, count: content.count + Self.overhead)
        let isDone = unsafe content.withUnsafeBytes { source in unsafe sealed.withUnsafeMutableBytes { unsafe crypt(source, into: $0, nonce, context, seals: true) } }
        precondition(isDone, "AES-256-GCM is not there")
        return sealed
    }

    /// Nil for what was not sealed by this key with that nonce and context, or has changed.
    public func open(_ sealed: [UInt8], nonce: [UInt8], context: [UInt8] = []) -> [UInt8]? {
        guard sealed.count >= Self.overhead else { return nil }
        var content = [UInt8](repeating: 0, count: sealed.count - Self.overhead)
        let isDone = unsafe sealed.withUnsafeBytes { source in unsafe content.withUnsafeMutableBytes { unsafe crypt(source, into: $0, nonce, context, seals: false) } }
        return isDone ? content : nil
    }

    /// All of `content` into `result`, which has the room.
    public func seal(_ content: PageBuffer, into result: PageBuffer, nonce: [UInt8]) {
        let source = unsafe content.memory(0..<content.count), length = content.count + Self.overhead
        let count = unsafe result.produce { room in
            precondition(room.count >= length, "more than there is room for")
            return unsafe crypt(source, into: UnsafeMutableRawBufferPointer(rebasing: room[..<length]), nonce, [], seals: true) ? length : 0
        }
        precondition(count == length, "AES-256-GCM is not there")
    }

    /// All of `sealed` into `result`, which has the room. False for what was not sealed so.
    public func open(_ sealed: PageBuffer, into result: PageBuffer, nonce: [UInt8]) -> Bool {
        let source = unsafe sealed.memory(0..<sealed.count), length = sealed.count - Self.overhead
        guard length >= 0 else { return false }
        var isDone = false
        _ = unsafe result.produce { room in
            precondition(room.count >= length, "more than there is room for")
            isDone = unsafe crypt(source, into: UnsafeMutableRawBufferPointer(rebasing: room[..<length]), nonce, [], seals: false)
            return isDone ? length : 0
        }
        return isDone
    }

    /// EVP_EncryptInit(3). The tag stands at the end of what is sealed.
    @unsafe private func crypt(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer, _ nonce: [UInt8], _ context: [UInt8], seals: Bool) -> Bool {
        precondition(nonce.count == Self.nonceSize)
        OpenSSL.begin()
        guard let state = unsafe EVP_CIPHER_CTX_new() else { return false }
        defer { unsafe EVP_CIPHER_CTX_free(state) }
        let length = seals ? source.count : source.count - Self.overhead, way: Int32 = seals ? 1 : 0
        var done: Int32 = 0
        guard unsafe EVP_CipherInit_ex(state, EVP_aes_256_gcm(), nil, bytes, nonce, way) == 1 else { return false }
        if !context.isEmpty, unsafe EVP_CipherUpdate(state, nil, &done, context, Int32(context.count)) != 1 { return false }
        let from = unsafe source.baseAddress?.assumingMemoryBound(to: UInt8.self), to = unsafe target.baseAddress?.assumingMemoryBound(to: UInt8.self)
        if length > 0 { guard unsafe EVP_CipherUpdate(state, to, &done, from, Int32(length)) == 1, Int(done) == length else { return false } }
        var rest = [UInt8](repeating: 0, count: Self.overhead)
        if seals {
            guard unsafe EVP_CipherFinal_ex(state, &rest, &done) == 1 else { return false }
            return unsafe EVP_CIPHER_CTX_ctrl(state, EVP_CTRL_AEAD_GET_TAG, Int32(Self.overhead), to! + length) == 1
        }
        guard unsafe EVP_CIPHER_CTX_ctrl(state, EVP_CTRL_AEAD_SET_TAG, Int32(Self.overhead), UnsafeMutableRawPointer(mutating: from! + length)) == 1 else { return false }
        return unsafe EVP_CipherFinal_ex(state, &rest, &done) == 1
    }
}

enum OpenSSL {
    /// Neither the system's configuration, which may load libraries, nor anything at exit.
    static func begin() { OPENSSL_init_crypto(UInt64(OPENSSL_INIT_NO_LOAD_CONFIG) | UInt64(OPENSSL_INIT_NO_ATEXIT), nil) }

    static var reason: String { TLSCredentials.lastReason().text }
}

/// Keys out of keys (RFC 5869).
public enum HKDF {
    public static func sha256(_ secret: [UInt8], salt: [UInt8], info: [UInt8], count: Int) -> [UInt8] {
        precondition(count <= 255 * 32)
        // Without a salt it is zeros, of which HMAC has as many as it needs.
        let key = hmac(key: salt.isEmpty ? [UInt8](repeating: 0, count: 32) : salt, secret)
        var result = [UInt8](), block = [UInt8](), number: UInt8 = 0
        while result.count < count {
            number += 1
            block = hmac(key: key, block + info + [number])
            result += block
        }
        return Array(result.prefix(count))
    }

    private static func hmac(key: [UInt8], _ content: [UInt8]) -> [UInt8] {
        OpenSSL.begin()
        var result = [UInt8](repeating: 0, count: 32), length: UInt32 = 0
        precondition(unsafe HMAC(EVP_sha256(), key, Int32(key.count), content, content.count, &result, &length) != nil && length == 32, "HMAC-SHA256 is not there")
        return result
    }
}
