package import Linux

/// Everything the command line and the configuration files decided, with CRIU's defaults. A plain value.
package struct Options: Sendable, Equatable {
    package var command: Command
    /// The descriptor of `swrk FD`.
    package var workerDescriptor: Int32?

    // Directories, log and output
    package var imagesDirectory = "."
    /// Where logs, pidfiles and statistics go; nil is the image directory.
    package var workDirectory: String?
    package var previousImagesDirectory: String?
    /// Relative to the work directory; nil is standard error.
    package var logFile: String?
    package var logsPerTask = false
    /// As for `Log.Level(verbosity:)`.
    package var verbosity = 2
    package var displayStats = false
    package var json = false
    package var pidFile: String?
    package var statusDescriptor: Int32?
    package var closedDescriptors: [Int32] = []
    package var pluginDirectory: String?
    /// Seconds that one call of a plugin may take.
    package var pluginTimeout: UInt64 = 300
    /// GPUs of the dump and those in their place, as cuda-checkpoint takes it.
    package var gpuDeviceMap: String?
    /// In the order given; they run in the opposite one.
    package var actionScripts: [String] = []
    package var configFile: String?
    package var noDefaultConfig = false
    package var unprivileged = false
    package var allowsDeprecated = false

    // The tree
    package var tree: Int32?
    package var leaveRunning = false
    package var leaveStopped = false
    package var snapshot = false
    package var backgroundLoad = false
    /// Seconds to freeze and collect the tasks; 0 is without limit.
    package var timeout: UInt32 = 10
    package var shellJob = false
    package var freezeCgroup: String?
    package var restoreDetached = false
    package var restoreSibling = false
    package var execCommand: [String]?
    package var digest = false
    package var checkOnly = false
    package var plan = false
    package var compression: Compression?
    package var directIO = false
    /// Files with certificates, public keys or keys, for whom images are encrypted; as seen from where we were called.
    package var encryptionRecipients: [String] = []
    /// Files with private keys or keys that open encrypted images.
    package var decryptionKeys: [String] = []
    /// Whether images are held against their checksums.
    package var verifies = true

    // Files
    package var linkRemap = false
    /// Bytes of the biggest deleted file that goes into the images.
    package var ghostLimit: UInt64 = 1 << 20
    package var ghostFiemap = true
    package var evasiveDevices = false
    package var forceIrmap = false
    package var irmapScanPaths: [String] = []
    package var fileLocks = false
    package var fileValidation = FileValidation.buildid
    package var skipFileRwxCheck = false
    package var inheritedDescriptors: [InheritedDescriptor] = []
    /// `--inherit-fd debug[N]:TEXT`: texts to write to descriptors.
    package var debugTexts: [InheritedDescriptor] = []
    package var externals: [External] = []
    package var allowUprobes = false

    // Sockets and network
    package var externalUnixSockets = ExternalUnixSockets.none
    package var tcpEstablished = false
    package var tcpClose = false
    package var skipInFlight = false
    package var networkLock = NetworkLock.iptables
    package var addressRemaps: [InetAddressRemap] = []

    // Namespaces, mounts, security
    package var root: String?
    package var joinedNamespaces: [JoinedNamespace] = []
    package var emptyNetworkNamespace = false
    package var externalMountMaps: [String] = []
    package var externalSharing = false
    package var externalMasters = false
    package var skippedMounts: [String] = []
    package var enabledFilesystems: [String] = []
    package var mountCompatibilityMode = false
    package var weakSysctls = false
    package var lsmProfile: String?
    package var lsmMountContext: String?

    // Cgroups
    package var manageCgroups = ManageCgroups.soft
    /// Whether `--manage-cgroups` was given at all.
    package var managesCgroups = false
    package var cgroupRoots: [CgroupRoot] = []
    package var cgroupProperties: String?
    package var cgroupPropertiesFile: String?
    package var cgroupControllers: [String] = []
    package var cgroupYard: String?

    // Memory, CPU
    package var trackMemory = false
    package var autoDedup = false
    package var preDumpMode = PreDumpMode.splice
    package var lazyPages = false
    package var stream = false
    /// nil: no cpuinfo image is written and none compared.
    package var cpuCapabilities: CPUCapabilities?

    // Page server and service
    package var sendsToPageServer = false
    package var address: String?
    package var port: UInt16?
    package var pageServerSocket: Int32?
    /// Of `network-unlock`: the lock to be lifted.
    package var lockName: String?
    package var tls = false
    package var tlsCACertificate: String?
    package var tlsRevocationList: String?
    package var tlsCertificate: String?
    package var tlsKey: String?
    package var tlsVerifiesName = true
    package var tlsSharedKey: String?

    // migrate and receive
    /// Where the destination is: ssh://[USER@]HOST[:PORT][/PROGRAM], unix:PATH, HOST[:PORT].
    package var destination: String?
    /// Where a destination listens: unix:PATH, HOST:PORT.
    package var listens: String?
    package var usesStandardStreams = false
    package var isInsecure = false
    /// Milliseconds.
    package var maxDowntime: UInt32 = 300
    package var maxRounds: UInt32 = 30
    package var whenTooBusy = WhenTooBusy.giveUp

    // check
    package var checkExtra = false
    package var checkExperimental = false
    package var checkFeatures: [String] = []

    // help
    package var manualPage = false
    package var completions: Shell?

    package init(command: Command) { self.command = command }
}

/// `--when-too-busy`: what becomes of a migration whose tree writes faster than the connection takes it.
package enum WhenTooBusy: String, Sendable, CaseIterable { case giveUp = "give-up", goOn = "go-on", postCopy = "post-copy" }

/// Shells we write completions for.
package enum Shell: String, Sendable, CaseIterable { case bash, zsh, fish }
