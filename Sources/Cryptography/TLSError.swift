import COpenSSL
public import Linux

/// Why a connection is not encrypted, in words: of ours, or what the other end said of us.
public struct TLSError: RemediableError, Equatable, CustomStringConvertible {
    public let cause: String
    public let remedy: String?
    init(_ cause: String, remedy: String? = nil) { (self.cause, self.remedy) = (cause, remedy) }
    public var description: String { cause }

    private static let bothUses = "one whose extended key usage, if it has any, names both serverAuth and clientAuth"
    private static let bothEnds = "the same --tls options at both ends"

    /// The other end's certificate is refused.
    /// - Parameters:
    ///   - code: X509_V_ERR_*, verify(1).
    ///   - name: of whom it is.
    ///   - wanted: the name by which we called the other end.
    init(verdict code: Int, on name: String?, wanted: String?) {
        let whose = "its certificate" + (name.map { " (\($0))" } ?? "")
        switch Int32(code) {
        case X509_V_ERR_CERT_HAS_EXPIRED: self.init("\(whose) has expired", remedy: "a new certificate for it; or the right time on this machine")
        case X509_V_ERR_CERT_NOT_YET_VALID: self.init("\(whose) is not valid yet", remedy: "the right time on this machine")
        case X509_V_ERR_CERT_REVOKED: self.init("\(whose) is on the list of revoked ones", remedy: "a new certificate for it")
        case X509_V_ERR_CRL_HAS_EXPIRED: self.init("the list of revoked certificates has expired", remedy: "a new one with --tls-cacrl")
        case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH:
            self.init("\(whose) is not one for \"\(wanted ?? "")\"", remedy: "call it by a name that its certificate holds, or --tls-no-cn-verify")
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
            X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
            self.init("\(whose) was signed by nobody whom we trust", remedy: "--tls-cacert with the authority that signed it")
        case X509_V_ERR_INVALID_PURPOSE: self.init("\(whose) is not made for this end of a connection", remedy: Self.bothUses)
        default: self.init("\(whose) is refused: \(unsafe X509_verify_cert_error_string(code).map { unsafe String(cString: $0) } ?? "\(code)")")
        }
    }

    /// - Parameters:
    ///   - reason: SSL_R_*; from 1000 on it is what the other end said, plus 1000 (RFC 8446, 6.2).
    ///   - hasSharedKey: whether we use no certificates.
    init(reason: Int32, text: String, hasSharedKey: Bool) {
        switch reason {
        case 1000 + 40: self.init("it finds no common way to encrypt", remedy: Self.bothEnds)
        case 1000 + 44: self.init("it refuses our certificate, which is revoked", remedy: "a new certificate with --tls-cert and --tls-key")
        case 1000 + 45: self.init("it refuses our certificate, which has expired", remedy: "a new certificate with --tls-cert and --tls-key; or the right time there")
        case 1000 + 48: self.init("it refuses our certificate, which was signed by nobody whom it trusts", remedy: "--tls-cacert there, with the authority that signed ours")
        case 1000 + 43: self.init("it refuses our certificate, which is not made for this end of a connection", remedy: Self.bothUses)
        case 1000 + 42, 1000 + 46, 1000 + 49: self.init("it refuses our certificate (\(text))", remedy: "see what it says itself")
        case 1000 + 47 where hasSharedKey, 1000 + 51 where hasSharedKey, 1000 + 115: self.init("it has another key than we", remedy: "the same file with --tls-psk at both ends")
        case 1000 + 116: self.init("it wants a certificate of ours", remedy: "--tls-cert and --tls-key")
        case 1000..<1256: self.init("it refuses to talk with us (\(text))", remedy: Self.bothEnds)
        case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: self.init("it shows no certificate", remedy: "--tls-cert and --tls-key there")
        case SSL_R_BINDER_DOES_NOT_VERIFY: self.init("it has another key than we", remedy: "the same file with --tls-psk at both ends")
        case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM where hasSharedKey, SSL_R_NO_SHARED_CIPHER where hasSharedKey:
            self.init("it does not use a key that both have", remedy: "--tls-psk at both ends")
        case SSL_R_WRONG_VERSION_NUMBER, SSL_R_HTTP_REQUEST, SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_BAD_RECORD_TYPE:
            self.init("what it says is no TLS", remedy: Self.bothEnds)
        case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC: self.init("what came was changed on its way")
        default: self.init("TLS: \(text)", remedy: Self.bothEnds)
        }
    }

    static let silence = TLSError("it says nothing", remedy: bothEnds)
    static let closed = TLSError("it has closed the connection", remedy: "see what it says itself, and \(bothEnds)")
    static let withoutKey = TLSError("it does not use a key that both have", remedy: "--tls-psk at both ends")
}
