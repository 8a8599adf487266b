import COpenSSL
import Glibc
import Linux

/// TLS over a socket (RFC 8446, or 5246).
@safe final class TLSStream: ByteStream, @unchecked Sendable {
    let descriptor: FileDescriptor
    private let session: OpaquePointer
    private let credentials: TLSCredentials
    /// The name that the other end's certificate must hold.
    private let wanted: String?
    /// Of whom a certificate is that was refused.
    private var refused: String?

    init(_ socket: FileDescriptor, _ credentials: TLSCredentials, isServer: Bool, wanted: String?) throws {
        guard let session = unsafe SSL_new(credentials.context) else { throw TLSError("TLS: \(TLSCredentials.lastReason().text)") }
        (descriptor, self.credentials, self.wanted) = (socket, credentials, wanted)
        unsafe self.session = session
        unsafe SSL_set_fd(session, socket.number)
        unsafe SSL_set_ex_data(session, 0, Unmanaged.passUnretained(self).toOpaque())
        unsafe SSL_set_verify(session, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT) { good, store in unsafe TLSStream.judge(good, store) }
        if isServer {
            unsafe SSL_set_accept_state(session)
            unsafe SSL_set_session_id_context(session, [UInt8]("stasis".utf8), 6)  // a shared key makes a session that was before, which wants one
        } else { unsafe SSL_set_connect_state(session) }
        guard let wanted else { return }
        let rules = unsafe SSL_get0_param(session)
        if unsafe X509_VERIFY_PARAM_set1_ip_asc(rules, wanted) == 1 { return }
        unsafe X509_VERIFY_PARAM_set_hostflags(rules, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
        unsafe X509_VERIFY_PARAM_set1_host(rules, wanted, 0)
    }
    deinit { unsafe SSL_free(session) }

    /// The one that a callback is about. It lives as long as its session.
    @unsafe static func of(_ session: OpaquePointer) -> TLSStream? {
        unsafe SSL_get_ex_data(session, 0).map { unsafe Unmanaged<TLSStream>.fromOpaque($0).takeUnretainedValue() }
    }

    // MARK: the handshake

    func shakeHands(within seconds: Int64) throws {
        limitSilence(seconds)
        do {
            try attempt("read") { unsafe SSL_do_handshake(session) }
            // Whoever has no key has not been asked for a certificate.
            if !credentials.sharedKey.isEmpty, unsafe SSL_session_reused(session) != 1 { throw TLSError.withoutKey }
        } catch {
            partInPeace()
            switch error {
            case End.now: throw TLSError.closed
            case let error as SyscallError where error.errno.rawValue == EAGAIN: throw TLSError.silence
            case let error as SyscallError where [ECONNRESET, EPIPE].contains(error.errno.rawValue): throw TLSError.closed
            default: throw error
            }
        }
        limitSilence(0)
    }

    private func limitSilence(_ seconds: Int64) { try? descriptor.setOption(SocketOption.receiveTimeout, to: (seconds, Int64(0))) }

    @unsafe func putKey(_ place: UnsafeMutablePointer<UInt8>, _ room: Int) -> UInt32 {
        guard credentials.sharedKey.count <= room else { return 0 }
        _ = unsafe UnsafeMutableBufferPointer(start: place, count: room).update(fromContentsOf: credentials.sharedKey)
        return UInt32(credentials.sharedKey.count)
    }

    /// 1 for a certificate that is good. An authority that has given no list of revoked certificates has revoked none.
    @unsafe private static func judge(_ good: Int32, _ store: OpaquePointer?) -> Int32 {
        if good == 1 { return 1 }
        if unsafe X509_STORE_CTX_get_error(store) == X509_V_ERR_UNABLE_TO_GET_CRL {
            unsafe X509_STORE_CTX_set_error(store, X509_V_OK)
            return 1
        }
        guard let session = unsafe X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()), let stream = unsafe of(OpaquePointer(session)) else { return 0 }
        // Says to the other end that it is not this certificate with which something is wrong.
        if !stream.credentials.sharedKey.isEmpty { unsafe X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION) }
        var name = [CChar](repeating: 0, count: 256)
        let length = unsafe X509_NAME_get_text_by_NID(X509_get_subject_name(X509_STORE_CTX_get0_cert(store)), NID_commonName, &name, 256)
        if length > 0 { stream.refused = String(decoding: name.prefix(Int(length)).map(UInt8.init(bitPattern:)), as: UTF8.self) }
        return 0
    }

    /// Lets the other end read our last words: a close with bytes unread would take them back (RST, tcp(7)).
    private func partInPeace() {
        try? descriptor.shutdown(1)
        limitSilence(1)
        for _ in 0..<64 { guard let bytes = try? descriptor.read(16384), !bytes.isEmpty else { return } }
    }

    // MARK: bytes

    var hasMore: Bool { unsafe SSL_has_pending(session) == 1 }

    @unsafe func readSome(into place: UnsafeMutableRawBufferPointer) throws -> Int {
        do { return Int(try attempt("read") { unsafe SSL_read(session, place.baseAddress, Int32(clamping: place.count)) }) } catch End.now { return 0 }
    }

    @unsafe func writeAll(_ bytes: UnsafeRawBufferPointer) throws {
        var done = 0
        while done < bytes.count {
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
            do {
                done += Int(try attempt("write") { unsafe SSL_write(session, rest.baseAddress, Int32(clamping: rest.count)) })
            } catch let error as SyscallError where [ECONNRESET, EPIPE].contains(error.errno.rawValue) {
                // It may have said why: under TLS 1.3 a client hears only then that its certificate is refused.
                do { _ = try readSome(1) } catch let said as TLSError { throw said } catch {}
                throw error
            }
        }
    }

    @unsafe func writeAll(_ bytes: UnsafeRawBufferPointer, apartAt starts: [Int]) throws {
        func hold(_ isOn: Int32) { try? descriptor.setOption(3 /* TCP_CORK */, level: 6, to: isOn) }
        hold(1)
        defer { hold(0) }
        for (start, end) in zip(starts, starts.dropFirst() + [bytes.count]) { try unsafe writeAll(UnsafeRawBufferPointer(rebasing: bytes[start..<end])) }
    }

    func sayEnd() {
        limitSilence(10)
        // The second waits for the other end's word.
        if unsafe SSL_shutdown(session) == 0 { unsafe SSL_shutdown(session) }
    }

    private enum End: Error { case now }

    /// Runs a call of OpenSSL until no signal interrupts it. Answers its result, which is above 0.
    @discardableResult
    private func attempt(_ call: String, _ body: () -> Int32) throws -> Int32 {
        while true {
            ERR_clear_error()
            errno = 0
            let result = body(), code = errno
            if result > 0 { return result }
            switch unsafe SSL_get_error(session, result) {
            case SSL_ERROR_ZERO_RETURN: throw End.now
            case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: if code != EINTR { throw SyscallError(call, .fd(descriptor.number), code) }
            case SSL_ERROR_SSL: throw problem()
            default: throw SyscallError(call, .fd(descriptor.number), code == 0 ? ECONNRESET : code)
            }
        }
    }

    private func problem() -> TLSError {
        let (reason, text) = TLSCredentials.lastReason()
        guard reason == SSL_R_CERTIFICATE_VERIFY_FAILED else { return TLSError(reason: reason, text: text, hasSharedKey: !credentials.sharedKey.isEmpty) }
        return credentials.sharedKey.isEmpty ? TLSError(verdict: unsafe SSL_get_verify_result(session), on: refused, wanted: wanted) : .withoutKey
    }
}
