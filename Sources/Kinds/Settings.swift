package import Linux

/// What a dump was asked for, as its steps need it. The command line makes one of these.
package struct DumpSettings: Sendable, Equatable {
    package enum Ending: Sendable { case kill, leaveStopped, leaveRunning }
    package enum FileValidation: Sendable { case size, buildID }
    package var ending = Ending.kill
    /// --shell-job: session, group or terminal of the root may belong to a shell outside.
    package var shellJob = false
    /// --link-remap: files that lost their name may get a temporary one beside them.
    package var linkRemap = false
    /// --ghost-limit, bytes that a deleted file may take on disk.
    package var ghostLimit: UInt64 = 1 << 20
    /// --ghost-fiemap: find holes of deleted files by FIEMAP rather than SEEK_HOLE.
    package var ghostFiemap = true
    package var fileLocks = false, externalUnixSockets = false, evasiveDevices = false
    /// --force-irmap: the names of what is watched are looked for by a walk first; --irmap-scan-path: also in these directories.
    package var forceIrmap = false, irmapScanPaths: [String] = []
    package var tcpEstablished = false, tcpClose = false, skipInFlight = false
    /// --network-lock skip turns it off: packets that come while the tree is frozen are then answered by the kernel, or lost.
    package var locksNetwork = true
    package var fileValidation = FileValidation.buildID
    /// --empty-ns net: nothing of a network namespace but that there is one.
    package var emptyNetwork = false
    /// --external KIND[ID]:VALUE, as given.
    package var external: [String] = []
    /// --timeout, seconds for stopping and collecting the tasks; 0 is without limit.
    package var timeout = 10
    package var freezeCgroup: String?
    /// --prev-images-dir, as given: relative to the image directory.
    package var previousImages: String?
    /// --track-mem: the next dump can tell what was written since this one.
    package var tracksMemory = false
    /// --lazy-pages: pages that can come later stay in the tree, which waits until it was asked for them.
    package var postponesPages = false
    /// --pre-dump-mode read; otherwise splice. Both give the same images.
    package var preDumpReads = false
    package var unprivileged = false
    package var cgroups = CgroupSettings()
    /// --digest: images hold the SHA-256 of programs and libraries.
    package var digests = false
    /// --compress: how pages are compressed.
    package var compression: Compression?
    /// --direct-io: pages go past the page cache.
    package var directIO = false
    /// --snapshot: the tree runs again as soon as its state is known and its memory copied; the pages are written behind it.
    package var snapshots = false
    /// --cpu-cap: cpuinfo.img is written.
    package var processor = false
    package init() {}
}

extension [String] {
    /// Of those of --external: VALUE of KIND[ID]:VALUE.
    func value(_ kind: String, _ id: some CustomStringConvertible) -> String? {
        let key = "\(kind)[\(id)]:"
        return last { $0.hasPrefix(key) }.map { String($0.dropFirst(key.count)) }
    }
}

/// What a restore was asked for.
package struct RestoreSettings: Sendable, Equatable {
    package var shellJob = false, skipFilePermissions = false, fileLocks = false, externalUnixSockets = false, tcpEstablished = false, tcpClose = false
    package var evasiveDevices = false
    package var leaveStopped = false
    /// --lazy-pages: pages that can come later are left to a lazy-pages daemon.
    package var postponesPages = false
    /// --background-load: that daemon is our own, and has the images at hand.
    package var loadsBehind = false
    /// --auto-dedup: pages are freed in the images as soon as they are restored.
    package var freesPages = false
    /// --no-verify turns it off: images are held against their checksums.
    package var verifies = true
    /// --restore-sibling: the root becomes a child of our parent.
    package var sibling = false
    /// --join-ns net: a process, or the file of a network namespace, which the tree is put into.
    package var joinedNetwork: String?
    /// --empty-ns net: a new one without content.
    package var emptyNetwork = false
    /// --weak-sysctls: without those that this kernel does not have.
    package var weakSysctls = false
    /// --remap-address: in the order given, each applied to what the ones before have made.
    package var addressRemaps: [InetAddressRemap] = []
    /// --inherit-fd fd[N]:KEY
    package var inherited: [(descriptor: Int32, key: String)] = []
    package var external: [String] = []
    package var fileValidation = DumpSettings.FileValidation.buildID
    package var unprivileged = false
    package var cgroups = CgroupSettings()
    /// --cpu-cap: the CPU is held against cpuinfo.img.
    package var processor: ProcessorRules?
    package init() {}
    package static func == (a: RestoreSettings, b: RestoreSettings) -> Bool { String(describing: a) == String(describing: b) }
}
