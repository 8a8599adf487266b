import Foundation

/// An authority, a second one, and certificates of theirs, made by openssl(1): `here` is good for 127.0.0.1; `elsewhere` for another name; `expired`;
/// `revoked`, which the list says; `stranger`, of the second authority.
final class Certificates: Sendable {
    static let shared = Result { try Certificates() }
    private static let folder = NSTemporaryDirectory() + "stasis-certificates-\(UUID().uuidString)"

    private init() throws {
        try FileManager.default.createDirectory(atPath: Self.folder, withIntermediateDirectories: true)
        atexit { try? FileManager.default.removeItem(atPath: Certificates.folder) }
        let result = try Command("/bin/bash", ["-euc", #"""
            new="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
            authority() {
                mkdir $1 && touch $1/index && echo 01 >$1/serial && echo 01 >$1/crl
                printf '%s\n' "[ca]" "default_ca=own" "[own]" "database=$1/index" "serial=$1/serial" "crlnumber=$1/crl" "new_certs_dir=$1" "certificate=$1.pem" \
                    "private_key=$1.key" "default_md=sha256" "default_crl_days=30" "policy=any" "unique_subject=no" "[any]" "commonName=supplied" >$1.cnf
                openssl req -x509 $new -keyout $1.key -out $1.pem -subj "/CN=authority $1" -days 30
            }
            certificate() {  # AUTHORITY NAME ALTERNATIVE END
                openssl req $new -keyout $2.key -out $2.csr -subj /CN=$2
                openssl ca -batch -config $1.cnf -in $2.csr -out $2.pem -notext -startdate 20200101000000Z -enddate $4 -extfile <(echo subjectAltName=$3)
            }
            authority ca; authority other
            certificate ca here IP:127.0.0.1,DNS:localhost 20990101000000Z
            certificate ca elsewhere DNS:elsewhere.example 20990101000000Z
            certificate ca expired IP:127.0.0.1 20210101000000Z
            certificate ca revoked IP:127.0.0.1 20990101000000Z
            certificate other stranger IP:127.0.0.1 20990101000000Z
            openssl ca -config ca.cnf -revoke revoked.pem
            openssl ca -config ca.cnf -gencrl -out revoked.crl
            (umask 077; for key in key otherkey; do head -c 32 /dev/urandom >$key; done)
            """#], in: Self.folder).run(within: 60)
        guard result.succeeded else { throw Failure("openssl: \(result)") }
    }

    func file(_ name: String) -> String { Self.folder + "/" + name }
    /// --tls and its companions for one end.
    func options(_ name: String = "here", trusting authority: String = "ca") -> [String] {
        ["--tls", "--tls-cert", file("\(name).pem"), "--tls-key", file("\(name).key"), "--tls-cacert", file("\(authority).pem")]
    }
    var revokedOnes: [String] { ["--tls-cacrl", file("revoked.crl")] }
    func key(_ name: String = "key") -> [String] { ["--tls-psk", file(name)] }
}
