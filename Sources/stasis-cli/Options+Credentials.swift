import Cryptography
import Kinds
import Options

extension Options {
    /// What --tls and its companions, or --tls-psk, ask for; nil for connections that are not encrypted.
    /// - Parameter trustsSystem: whether, without --tls-cacert, whoever has a certificate of one of the system's authorities may come.
    func credentials(trustsSystem: Bool = true) throws -> TLSCredentials? {
        if let tlsSharedKey { return try CheckpointError.about("encrypt", .object("connections"), remedy: "a file with a secret for --tls-psk") { try TLSCredentials(sharedKey: tlsSharedKey) } }
        guard tls else { return nil }
        var files = TLSCredentials.Files()
        if let tlsCertificate { files.certificate = tlsCertificate }
        if let tlsKey { files.key = tlsKey }
        (files.authority, files.revoked) = (tlsCACertificate, tlsRevocationList)
        return try CheckpointError.about("encrypt", .object("connections")) { try TLSCredentials(files, verifiesName: tlsVerifiesName, trustsSystem: trustsSystem) }
    }
}
