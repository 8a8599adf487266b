import COpenSSL
import Linux

/// A public key, or a private one, for keys to be wrapped with: RSA, or on a curve with a Diffie-Hellman exchange.
@safe final class AsymmetricKey: @unchecked Sendable {
    private let key: OpaquePointer
    enum Method { case rsa, exchange }
    let method: Method

    /// Takes it over. Nil for keys that are only for signatures.
    @unsafe private init?(_ key: OpaquePointer) {
        switch unsafe EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA: method = .rsa
        case EVP_PKEY_EC, EVP_PKEY_X25519, EVP_PKEY_X448: method = .exchange
        default:
            unsafe EVP_PKEY_free(key)
            return nil
        }
        unsafe self.key = key
    }
    deinit { unsafe EVP_PKEY_free(key) }

    /// What a file in PEM gives.
    enum Found {
        case key(AsymmetricKey, owner: String?, hasExpired: Bool)
        /// One that is only for signatures.
        case unfit
        /// OpenSSL's reason.
        case none(String)
    }

    /// Of a certificate, or by itself.
    static func publicKey(inPEM text: [UInt8]) -> Found {
        unsafe withText(text) { file in
            if contains("CERTIFICATE-----", text) {
                guard let certificate = unsafe PEM_read_bio_X509(file, nil, noPassword, nil) else { return .none(OpenSSL.reason) }
                defer { unsafe X509_free(certificate) }
                guard let key = unsafe X509_get_pubkey(certificate) else { return .none(OpenSSL.reason) }
                var name = [CChar](repeating: 0, count: 256)
                let length = unsafe X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, &name, 256)
                let owner = length > 0 ? String(decoding: name.prefix(Int(length)).map(UInt8.init(bitPattern:)), as: UTF8.self) : nil
                return unsafe AsymmetricKey(key).map { .key($0, owner: owner, hasExpired: unsafe X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) } ?? .unfit
            }
            guard let key = unsafe PEM_read_bio_PUBKEY(file, nil, noPassword, nil) else { return .none(OpenSSL.reason) }
            return unsafe AsymmetricKey(key).map { .key($0, owner: nil, hasExpired: false) } ?? .unfit
        }
    }

    static func privateKey(inPEM text: [UInt8]) -> Found {
        unsafe withText(text) { file in
            guard let key = unsafe PEM_read_bio_PrivateKey(file, nil, noPassword, nil) else { return .none(OpenSSL.reason) }
            return unsafe AsymmetricKey(key).map { .key($0, owner: nil, hasExpired: false) } ?? .unfit
        }
    }

    static func contains(_ words: String, _ text: [UInt8]) -> Bool { String(decoding: text, as: UTF8.self).contains(words) }

    @unsafe private static func withText(_ text: [UInt8], _ body: (OpaquePointer) -> Found) -> Found {
        OpenSSL.begin()
        ERR_clear_error()
        guard let file = unsafe BIO_new_mem_buf(text, Int32(text.count)) else { return .none("no memory") }
        defer { unsafe BIO_free(file) }
        return unsafe body(file)
    }
    /// Nobody is asked for one.
    private static var noPassword: @convention(c) (UnsafeMutablePointer<CChar>?, Int32, Int32, UnsafeMutableRawPointer?) -> Int32 { { _, _, _, _ in -1 } }

    // MARK: what it is

    /// "RSA 3072", "EC 256".
    var kind: String {
        let name = unsafe EVP_PKEY_get0_type_name(key).map { unsafe String(cString: $0) } ?? "key"
        return method == .rsa || name == "EC" ? "\(name) \(unsafe EVP_PKEY_get_bits(key))" : name
    }
    var bits: Int { Int(unsafe EVP_PKEY_get_bits(key)) }

    /// The public half (SubjectPublicKeyInfo, RFC 5280).
    var publicBytes: [UInt8] {
        let length = unsafe i2d_PUBKEY(key, nil)
        guard length > 0 else { return [] }
        var bytes = [UInt8](repeating: 0, count: Int(length))
        unsafe bytes.withUnsafeMutableBufferPointer { buffer in
            var place = buffer.baseAddress
            _ = unsafe i2d_PUBKEY(key, &place)
        }
        return bytes
    }

    /// A short name of the public half: its SHA-256.
    var id: [UInt8] {
        var result = [UInt8](repeating: 0, count: 32), length: UInt32 = 0
        let bytes = publicBytes
        precondition(unsafe EVP_Digest(bytes, bytes.count, &result, &length, EVP_sha256(), nil) == 1 && length == 32, "SHA-256 is not there")
        return result
    }

    // MARK: RSA-OAEP with SHA-256 (RFC 8017)

    func encrypt(_ content: [UInt8], label: [UInt8]) -> [UInt8]? {
        unsafe rsa(content, label, EVP_PKEY_encrypt_init) { unsafe EVP_PKEY_encrypt($0, $1, $2, $3, $4) }
    }
    func decrypt(_ content: [UInt8], label: [UInt8]) -> [UInt8]? {
        unsafe rsa(content, label, EVP_PKEY_decrypt_init) { unsafe EVP_PKEY_decrypt($0, $1, $2, $3, $4) }
    }

    private typealias Step = (OpaquePointer, UnsafeMutablePointer<UInt8>?, UnsafeMutablePointer<Int>, UnsafePointer<UInt8>, Int) -> Int32
    @unsafe private func rsa(_ content: [UInt8], _ label: [UInt8], _ begin: (OpaquePointer?) -> Int32, _ step: Step) -> [UInt8]? {
        guard method == .rsa, let work = unsafe EVP_PKEY_CTX_new(key, nil) else { return nil }
        defer { unsafe EVP_PKEY_CTX_free(work) }
        guard unsafe begin(work) == 1, unsafe EVP_PKEY_CTX_set_rsa_padding(work, RSA_PKCS1_OAEP_PADDING) == 1,
            unsafe EVP_PKEY_CTX_set_rsa_oaep_md(work, EVP_sha256()) == 1, unsafe EVP_PKEY_CTX_set_rsa_mgf1_md(work, EVP_sha256()) == 1,
            // Which takes the copy over.
            let copy = unsafe CRYPTO_memdup(label, label.count, nil, 0), unsafe EVP_PKEY_CTX_set0_rsa_oaep_label(work, copy, Int32(label.count)) == 1
        else { return nil }
        var length = 0
        guard unsafe step(work, nil, &length, content, content.count) == 1 else { return nil }
        var result = [UInt8](repeating: 0, count: length)
        guard unsafe step(work, &result, &length, content, content.count) == 1 else { return nil }
        return Array(result.prefix(length))
    }

    // MARK: a Diffie-Hellman exchange

    /// A new pair on the same curve.
    func newPair() -> AsymmetricKey? {
        guard method == .exchange, let work = unsafe EVP_PKEY_CTX_new(key, nil) else { return nil }
        defer { unsafe EVP_PKEY_CTX_free(work) }
        var made: OpaquePointer?
        guard unsafe EVP_PKEY_keygen_init(work) == 1, unsafe EVP_PKEY_keygen(work, &made) == 1, let made = unsafe made else { return nil }
        return unsafe AsymmetricKey(made)
    }

    /// The public half of a pair.
    static func exchanged(_ bytes: [UInt8]) -> AsymmetricKey? {
        unsafe bytes.withUnsafeBufferPointer { buffer in
            var place = buffer.baseAddress
            guard let key = unsafe d2i_PUBKEY(nil, &place, buffer.count) else { return nil }
            return unsafe AsymmetricKey(key)
        }
    }

    /// What both know: this private half and the other public one, or the other way round. Nil where they are of different curves.
    func agree(with other: AsymmetricKey) -> [UInt8]? {
        guard method == .exchange, other.method == .exchange, let work = unsafe EVP_PKEY_CTX_new(key, nil) else { return nil }
        defer { unsafe EVP_PKEY_CTX_free(work) }
        var length = 0
        guard unsafe EVP_PKEY_derive_init(work) == 1, unsafe EVP_PKEY_derive_set_peer(work, other.key) == 1, unsafe EVP_PKEY_derive(work, nil, &length) == 1 else { return nil }
        var result = [UInt8](repeating: 0, count: length)
        guard unsafe EVP_PKEY_derive(work, &result, &length) == 1 else { return nil }
        return Array(result.prefix(length))
    }
}
