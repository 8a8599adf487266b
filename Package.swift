// swift-tools-version: 6.3
import PackageDescription

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6), .strictMemorySafety(), .treatAllWarnings(as: .error), .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"), .enableUpcomingFeature("MemberImportVisibility"),
]

let exportedToPlugins = ["criu_get_image_dir", "print_on_level", "add_inventory_plugin", "check_and_remove_inventory_plugin"]

/// A folder imports only those above it; a new arrow is a design decision (docs/architecture.md).
let package = Package(
    name: "stasis",
    products: [
        .executable(name: "stasis", targets: ["stasis"]),
        .library(name: "Graft", targets: ["Graft"]),
        .library(name: "Images", targets: ["Images"]),
        .library(name: "TCPRepair", targets: ["TCPRepair"]),
        .library(name: "Migration", targets: ["Migration"]),
    ],
    dependencies: [.package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0")],
    targets: [
        .target(name: "CLinux"),
        .target(name: "CPlugin"),
        .systemLibrary(name: "CZstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CLZ4", providers: [.apt(["liblz4-dev"])]),
        .target(
            name: "Linux", dependencies: ["CLinux", "CZstd", "CLZ4"], swiftSettings: strict,
            // Into the program: it starts sooner, and runs where they are not installed.
            linkerSettings: [.linkedLibrary(":libzstd.a"), .linkedLibrary(":liblz4.a")]),
        .systemLibrary(name: "COpenSSL", providers: [.apt(["libssl-dev"])]),
        .target(
            name: "Cryptography", dependencies: ["COpenSSL", "Linux"], swiftSettings: strict,
            linkerSettings: [.linkedLibrary(":libssl.a"), .linkedLibrary(":libcrypto.a")]),
        .target(
            name: "ImageMessages", dependencies: [.product(name: "SwiftProtobuf", package: "swift-protobuf")],
            exclude: ["proto"], swiftSettings: [.swiftLanguageMode(.v6)]),
        .target(
            name: "Images", dependencies: ["Cryptography", "Linux", "ImageMessages", .product(name: "SwiftProtobuf", package: "swift-protobuf")],
            swiftSettings: strict),
        .target(name: "Graft", dependencies: ["CLinux", "Linux"], exclude: ["README.md"], swiftSettings: strict),
        .target(name: "TCPRepair", dependencies: ["CLinux", "Linux"], exclude: ["README.md"], swiftSettings: strict),
        .target(name: "Kinds", dependencies: ["CLinux", "Linux", "ImageMessages", "Images", "Graft", "TCPRepair"], swiftSettings: strict),
        .target(name: "Pages", dependencies: ["CLinux", "Cryptography", "Linux", "ImageMessages", "Images", "Graft", "Kinds"], swiftSettings: strict),
        .target(
            name: "Plugins", dependencies: ["CLinux", "CPlugin", "Linux", "ImageMessages", "Graft", "Kinds", .product(name: "SwiftProtobuf", package: "swift-protobuf")],
            swiftSettings: strict),
        .target(name: "Checkpoint", dependencies: ["CLinux", "Linux", "ImageMessages", "Images", "Graft", "Kinds", "Pages"], swiftSettings: strict),
        .target(
            name: "Migration", dependencies: ["CLinux", "Cryptography", "Linux", "ImageMessages", "Images", "TCPRepair", "Kinds", "Pages", "Checkpoint"],
            exclude: ["README.md"], swiftSettings: strict),
        .target(name: "Options", dependencies: ["CLinux", "Linux"], swiftSettings: strict),
        .executableTarget(
            name: "stasis", dependencies: ["CLinux", "Cryptography", "Linux", "ImageMessages", "Images", "TCPRepair", "Kinds", "Options", "Pages", "Plugins", "Checkpoint", "Migration"], path: "Sources/stasis-cli", exclude: ["link"], swiftSettings: strict,
            linkerSettings: [
                // It starts in half the time without 54,000 relocations, and runs where no Swift is installed.
                .unsafeFlags(["-static-stdlib", "-l_FoundationCShims", "-l_FoundationCollections", "-Xclang-linker", "-no-pie"], .when(configuration: .release)),
                // And again in half without the C++ library's own; `link` leads to the static one.
                .unsafeFlags(["-L", "\(Context.packageDirectory)/Sources/stasis-cli/link", "-Xclang-linker", "-static-libgcc"], .when(configuration: .release)),
                // What a plugin in C may call is looked for in the program that loads it (docs/design/plugins.md).
                .unsafeFlags(exportedToPlugins.flatMap { ["-Xlinker", "--export-dynamic-symbol=\($0)"] }),
            ]),
        .executableTarget(name: "workload", path: "Tests/Workloads", cSettings: [.unsafeFlags(["-Wall", "-O1"])]),
        .testTarget(name: "LinuxTests", dependencies: ["Linux"], swiftSettings: strict),
        .testTarget(name: "CryptographyTests", dependencies: ["Cryptography", "Linux"], swiftSettings: strict),
        .testTarget(
            name: "ImagesTests", dependencies: ["Images", "ImageMessages", "Linux", .product(name: "SwiftProtobuf", package: "swift-protobuf")],
            exclude: ["Golden"], swiftSettings: strict),
        .testTarget(name: "TCPRepairTests", dependencies: ["TCPRepair", "Linux"], swiftSettings: strict),
        .testTarget(name: "GraftTests", dependencies: ["Graft", "Linux", "CLinux"], swiftSettings: strict),
        .testTarget(name: "KindsTests", dependencies: ["Kinds", "Graft", "CLinux", "Images", "ImageMessages", "Linux"], swiftSettings: strict),
        .testTarget(name: "PagesTests", dependencies: ["Pages", "Kinds", "Images", "ImageMessages", "Linux"], swiftSettings: strict),
        .testTarget(name: "PluginsTests", dependencies: ["Plugins", "ImageMessages", "Linux"], swiftSettings: strict),
        .testTarget(name: "CheckpointTests", dependencies: ["Checkpoint", "Images", "ImageMessages", "Linux"], swiftSettings: strict),
        .testTarget(name: "MigrationTests", dependencies: ["Migration", "Checkpoint", "Pages", "Kinds", "Linux"], swiftSettings: strict),
        .testTarget(name: "OptionsTests", dependencies: ["Options"], exclude: ["options-of-criu.txt"], swiftSettings: strict),
        .testTarget(name: "EndToEndTests", dependencies: ["stasis", "workload", "Linux", "Images", "ImageMessages", "Kinds"], swiftSettings: strict),
    ]
)
