import Foundation
import Testing

extension EndToEnd {
    /// Connections within TLS.
    @Suite("encrypted connections", .serialized) struct Encryption {
        private func run(_ workload: String, _ body: @escaping (Run, Certificates) throws -> Void) throws {
            let run = try Run(workload), certificates = try Certificates.shared.get()
            run.reporting(again: "swift test --filter EndToEnd.Encryption", as: "\(workload)-encrypted") { run in
                try run.start(["--detached", workload])
                try run.awaitReady()
                try body(run, certificates)
                try run.checkItself()
            }
        }
        private func to(_ port: String) -> [String] { ["--page-server", "--address", "127.0.0.1", "--port", port] }

        @Test("pages go to a server, and come back as they are touched", arguments: [false, true]) func pages(byKey: Bool) throws {
            try run("memory-writer") { run, certificates in
                let tls = byKey ? certificates.key() : certificates.options() + certificates.revokedOnes
                for last in [false, true] {
                    let before = run.onPrevious
                    let port = try run.startServer(["page-server", "--port", "0"] + tls, next: true)
                    try run.dump(before + to(port) + tls, command: last ? "dump" : "pre-dump")
                }
                let port = try run.startServer(["page-server", "--lazy-pages", "--port", "0"] + tls, next: false)
                _ = try run.startServer(["lazy-pages"] + to(port) + tls, next: false)
                try run.restore(["--lazy-pages"])
            }
        }

        @Test("whoever proves nothing is refused by both ends in words, and the tree goes on") func refused() throws {
            try run("pipes") { run, certificates in
                let good = certificates.options() + certificates.revokedOnes
                let cases: [(server: [String], client: [String], serverSays: String, clientSays: String)] = [
                    (good, certificates.options("expired"), "its certificate (expired) has expired", "it refuses our certificate, which has expired"),
                    (certificates.options("expired"), good, "it refuses our certificate, which has expired", "its certificate (expired) has expired"),
                    (good, certificates.options("stranger"), "its certificate (stranger) was signed by nobody whom we trust", "signed by nobody whom it trusts"),
                    (good, certificates.options(trusting: "other"), "signed by nobody whom it trusts", "its certificate (here) was signed by nobody whom we trust"),
                    (good, certificates.options("revoked"), "its certificate (revoked) is on the list of revoked ones", "it refuses our certificate, which is revoked"),
                    (certificates.options("elsewhere"), good, "it refuses our certificate", "its certificate (elsewhere) is not one for \"127.0.0.1\""),
                    (certificates.key(), certificates.key("otherkey"), "it has another key than we", "it has another key than we"),
                    (certificates.key(), good, "it does not use a key that both have", "it finds no common way to encrypt"),
                    (good, certificates.key(), "it finds no common way to encrypt", "it does not use a key that both have"),
                    (good, [], "what it says is no TLS", "the page server"),
                    ([], good, "what came is TLS", "it has closed the connection"),
                ]
                for one in cases {
                    let port = try run.startServer(["page-server", "--port", "0"] + one.server, next: true)
                    let result = try run.dumpCommand(to(port) + one.client).run(within: 60)
                    guard !result.succeeded, result.output.contains(one.clientSays), !exists(run.images + "/inventory.img") else {
                        throw Failure("the client of \(one) said \(result)")
                    }
                    let log = { String.contents(of: run.images + "/page-server.log") ?? "" }
                    guard eventually(within: 5, { log().contains("Error (") && log().contains(one.serverSays) }) else { throw Failure("the server of \(one) said \(log())") }
                }
                // By the same options it is well where nobody looks at the name.
                let port = try run.startServer(["page-server", "--port", "0"] + certificates.options("elsewhere"), next: true)
                try run.dump(to(port) + good + ["--tls-no-cn-verify"])
                try run.restore()
            }
        }

        @Test("a client without a certificate, and files that are none, are named") func without() throws {
            try run("pipes") { run, certificates in
                let port = try run.startServer(["page-server", "--port", "0"] + certificates.options(), next: true)
                _ = try Command("/bin/sh", ["-c", "sleep 1 | openssl s_client -connect 127.0.0.1:\(port)"], in: run.folder).run(within: 20)
                let log = { String.contents(of: run.scratch + "/1/page-server.log") ?? "" }
                guard eventually(within: 5, { log().contains("it shows no certificate") }) else { throw Failure(log()) }
                let result = try run.dumpCommand(to("1") + ["--tls", "--tls-cert", certificates.file("none.pem")]).run(within: 60)
                #expect(result.output.contains("none.pem can't be read: No such file") && result.output.contains("try: our certificate with --tls-cert"), "\(result)")
            }
        }
    }
}
