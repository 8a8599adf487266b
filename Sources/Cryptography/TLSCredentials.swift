import COpenSSL
import Glibc
public import Linux

/// What we show to the other end of a connection, and whom we trust: certificates or a key that both have. Read from files once, before anything is begun.
@safe public final class TLSCredentials: @unchecked Sendable {
    let context: OpaquePointer
    /// Of a key that both have: 32 bytes; empty with certificates.
    let sharedKey: [UInt8]
    let verifiesName: Bool

    /// Files in PEM.
    public struct Files: Sendable {
        public var certificate = "/etc/pki/criu/cert.pem", key = "/etc/pki/criu/private/key.pem"
        /// Nil: the system's authorities, and `usualAuthority`.
        public var authority: String?
        /// Nil: `usualRevoked`, where there is one.
        public var revoked: String?
        public static let usualAuthority = "/etc/pki/CA/cacert.pem", usualRevoked = "/etc/pki/CA/cacrl.pem"
        public init() {}
    }

    /// - Parameter trustsSystem: whether, without an authority named, also whoever has a certificate of one of the system's may come.
    public init(_ files: Files, verifiesName: Bool, trustsSystem: Bool) throws {
        unsafe context = try Self.makeContext()
        (sharedKey, self.verifiesName) = ([], verifiesName)
        try show(files)
        try trust(files, system: trustsSystem)
    }

    /// A file with a secret of at least 16 bytes, which only its owner may read.
    public init(sharedKey path: String) throws {
        func refused(_ cause: String, remedy: String) -> TLSError { TLSError("the key in \(path) \(cause)", remedy: remedy) }
        let file = try FileDescriptor.open(path, O_RDONLY)
        let status = try file.status()
        guard status.mode & 0o077 == 0 else { throw refused("may be read by others", remedy: "chmod 600 \(path)") }
        guard status.size >= 16 else { throw refused("is too short", remedy: "head -c 32 /dev/urandom > \(path)") }
        unsafe context = try Self.makeContext()
        (sharedKey, verifiesName) = (try Digest.sha256(of: file), false)
        // Only there a key goes together with one of this connection's own (psk_dhe_ke): who learns it later can't read what was said before.
        unsafe SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, Int(TLS1_3_VERSION), nil)
        unsafe SSL_CTX_set_psk_client_callback(context) { session, _, identity, identityRoom, key, room in
            guard let session = unsafe session, let identity = unsafe identity, let key = unsafe key, identityRoom > 7 else { return 0 }
            unsafe strcpy(identity, "stasis")
            return unsafe TLSStream.of(session)?.putKey(key, Int(room)) ?? 0
        }
        unsafe SSL_CTX_set_psk_server_callback(context) { session, _, key, room in
            guard let session = unsafe session, let key = unsafe key else { return 0 }
            return unsafe TLSStream.of(session)?.putKey(key, Int(room)) ?? 0
        }
    }
    deinit { unsafe SSL_CTX_free(context) }

    private static func makeContext() throws -> OpaquePointer {
        // Neither the system's configuration, which may load libraries, nor anything at exit.
        OPENSSL_init_ssl(UInt64(OPENSSL_INIT_NO_LOAD_CONFIG) | UInt64(OPENSSL_INIT_NO_ATEXIT), nil)
        guard let context = unsafe SSL_CTX_new(TLS_method()) else { throw TLSError("TLS can't be used: \(lastReason().text)") }
        unsafe SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, Int(TLS1_2_VERSION), nil)
        // SSL_OP_IGNORE_UNEXPECTED_EOF (7): an end without a word is an end; what is said has its length. SSL_OP_NO_RENEGOTIATION (30).
        unsafe SSL_CTX_set_options(context, 1 << 7 | 1 << 30)
        unsafe SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, Int(SSL_SESS_CACHE_OFF), nil)
        unsafe SSL_CTX_set_num_tickets(context, 0)
        // Several records at each read(2).
        unsafe SSL_CTX_ctrl(context, SSL_CTRL_SET_READ_AHEAD, 1, nil)
        unsafe SSL_CTX_set_default_read_buffer_len(context, 1 << 17)
        unsafe SSL_CTX_set_default_passwd_cb(context) { _, _, _, _ in 0 }
        return unsafe context
    }

    private func load(_ path: String, _ what: String, remedy: String, _ body: () -> Int32) throws {
        do throws(SyscallError) { try Linux.Files.checkAccess(path, writing: false) } catch { throw TLSError("\(what) \(path) can't be read: \(error.errno)", remedy: remedy) }
        ERR_clear_error()
        guard body() == 1 else { throw TLSError("\(what) \(path) is none in PEM (\(Self.lastReason().text))", remedy: remedy) }
    }

    private func show(_ files: Files) throws {
        try load(files.certificate, "the certificate", remedy: "our certificate with --tls-cert") { unsafe SSL_CTX_use_certificate_chain_file(context, files.certificate) }
        try load(files.key, "the private key", remedy: "our private key, without a password, with --tls-key") {
            let result = unsafe SSL_CTX_use_PrivateKey_file(context, files.key, SSL_FILETYPE_PEM)
            return ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH ? 1 : result
        }
        guard unsafe SSL_CTX_check_private_key(context) == 1 else {
            throw TLSError("the private key \(files.key) is not the one of certificate \(files.certificate)", remedy: "the pair with --tls-cert and --tls-key")
        }
    }

    private func trust(_ files: Files, system: Bool) throws {
        let isThere = { (path: String) in (try? Linux.Files.status(path)) != nil }
        func add(_ path: String) throws {
            try load(path, "the authority's certificate", remedy: "--tls-cacert with the certificate of the authority that signed those of both ends") { unsafe SSL_CTX_load_verify_file(context, path) }
        }
        if let authority = files.authority {
            try add(authority)
        } else {
            if isThere(Files.usualAuthority) || !system { try add(Files.usualAuthority) }
            if system {
                unsafe SSL_CTX_set_default_verify_paths(context)
                for bundle in ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"] where isThere(bundle) { _ = unsafe SSL_CTX_load_verify_file(context, bundle) }
            }
        }
        guard let revoked = files.revoked ?? (isThere(Files.usualRevoked) ? Files.usualRevoked : nil) else { return }
        let store = unsafe SSL_CTX_get_cert_store(context)
        try load(revoked, "the list of revoked certificates", remedy: "another one with --tls-cacrl") {
            unsafe X509_load_crl_file(X509_STORE_add_lookup(store, X509_LOOKUP_file()), revoked, X509_FILETYPE_PEM) > 0 ? 1 : 0
        }
        unsafe X509_STORE_set_flags(store, UInt(X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL))
    }

    static func lastReason() -> (code: Int32, text: String) {
        let error = ERR_peek_last_error()
        let text = unsafe ERR_reason_error_string(error).map { unsafe String(cString: $0) } ?? "unknown"
        return (ERR_GET_REASON(error), text)
    }

    // MARK: connections

    /// The end that has connected.
    /// - Parameter name: the host name or address by which it has; its certificate must hold it.
    public func connect(_ socket: FileDescriptor, to name: String?) throws -> any ByteStream {
        if verifiesName, name == nil { throw TLSError("nothing says what name its certificate must hold", remedy: "--tls-no-cn-verify, or --address NAME beside --ps-socket") }
        let stream = try TLSStream(socket, self, isServer: false, wanted: verifiesName ? name : nil)
        try stream.shakeHands(within: 10)
        return stream
    }

    /// The end that was connected to.
    /// - Parameter seconds: how long the other end may be silent before we know it.
    public func accept(_ socket: FileDescriptor, within seconds: Int64 = 10) throws -> any ByteStream {
        let stream = try TLSStream(socket, self, isServer: true, wanted: nil)
        try stream.shakeHands(within: seconds)
        return stream
    }
}
