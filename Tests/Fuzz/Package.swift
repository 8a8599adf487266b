// swift-tools-version: 6.3
import PackageDescription

/// Fuzzers of what comes from outside; a package of its own, because libFuzzer brings its own `main`. README.md says how to run it.
let package = Package(
    name: "fuzz",
    dependencies: [.package(name: "stasis", path: "../..")],
    targets: [
        .target(name: "CFuzzer"),
        .executableTarget(
            name: "fuzz-images", dependencies: ["CFuzzer", .product(name: "Images", package: "stasis")],
            swiftSettings: [.swiftLanguageMode(.v6), .unsafeFlags(["-sanitize=fuzzer", "-parse-as-library"])],
            linkerSettings: [.unsafeFlags(["-sanitize=fuzzer"])]),
        .executableTarget(
            name: "fuzz-answers", dependencies: ["CFuzzer", .product(name: "TCPRepair", package: "stasis")],
            swiftSettings: [.swiftLanguageMode(.v6), .unsafeFlags(["-sanitize=fuzzer", "-parse-as-library"])],
            linkerSettings: [.unsafeFlags(["-sanitize=fuzzer"])]),
    ]
)
