extension OptionTable {
    /// A migration is a dump here and a restore there.
    private static let both: CommandSet = [.dump, .restore, .migrate, .receive]

    static let tree: [OptionRow] = [
        OptionRow("tree", short: "t", taking: .required("PID"), [.dump, .preDump, .explain, .migrate], .tree, "root of the process tree to dump") {
            (options, value) throws(OptionError) in options.tree = try value.number(in: 1...Int32.max)
        },
        OptionRow("leave-running", short: "R", .dump, .tree, "let the tree run on after the dump") { $0.leaveRunning = $1.isOn },
        OptionRow("leave-stopped", short: "s", [.dump, .restore, .receive], .tree, "leave the tree stopped after the dump or the restore") { $0.leaveStopped = $1.isOn },
        OptionRow("timeout", taking: .required("SECONDS"), [.dump, .preDump, .migrate], .tree, "time limit for freezing and collecting the tasks (default: 10; 0: none)") {
            (options, value) throws(OptionError) in options.timeout = try value.number(in: 0...UInt32.max)
        },
        OptionRow("shell-job", short: "j", negation: true, both, .tree, "take a tree whose session, group or terminal belongs to a shell outside") {
            $0.shellJob = $1.isOn
        },
        OptionRow("freeze-cgroup", taking: .required("PATH"), [.dump, .preDump, .migrate], .tree, "stop the tasks through this freezer cgroup") {
            $0.freezeCgroup = $1.text
        },
        OptionRow("restore-detached", short: "d", negation: true, [.restore, .receive], .tree, "leave as soon as the tree runs; otherwise wait for its root task") {
            $0.restoreDetached = $1.isOn
        },
        OptionRow("restore-sibling", short: "S", negation: true, .restore, .tree, "make the root task a child of our parent; needs -d") {
            $0.restoreSibling = $1.isOn
        },
        OptionRow("exec-cmd", .restore, .tree, "after the restore become the command that follows --, as the tree's parent; not with -d") {
            $0.execCommand = $1.isOn ? [] : nil
        },
        OptionRow("cpu-cap", taking: .optional("CAP,..."), [.dump, .restore, .cpuinfo], .tree, "CPU features to write or to compare: fpu, cpu, ins, all, none, ^CAP") {
            (options, value) throws(OptionError) in
            let asked = try value.cpuCapabilities()
            // Only an item "none" takes away the rule that there is an image (CRIU 4.2).
            options.cpuCapabilities = asked.isEmpty ? nil : asked
        },
    ]

    static let files: [OptionRow] = [
        OptionRow("link-remap", negation: true, [.dump, .migrate], .files, "give a file without this name, but with others, a temporary name") { $0.linkRemap = $1.isOn },
        OptionRow("ghost-limit", taking: .required("SIZE[K|M|G]"), [.dump, .migrate], .files, "biggest deleted file to carry in the images (default: 1M)") {
            (options, value) throws(OptionError) in options.ghostLimit = try value.size()
        },
        OptionRow("ghost-fiemap", negation: true, [.dump, .migrate], .files, "find holes of deleted files with FIEMAP (default: on)") { $0.ghostFiemap = $1.isOn },
        OptionRow("evasive-devices", negation: true, [.dump, .migrate], .files, "use any other path to a device file that is out of reach") { $0.evasiveDevices = $1.isOn },
        OptionRow("force-irmap", negation: true, [.dump, .migrate], .files, "find what inotify and fanotify watch by walking directories, not by the kernel's handles") { $0.forceIrmap = $1.isOn },
        OptionRow("irmap-scan-path", taking: .required("PATH"), [.dump, .migrate], .files, "walk this directory (absolute), too, for what is watched and whose handle leads nowhere; repeatable") { $0.irmapScanPaths.append($1.text) },
        OptionRow("file-locks", short: "l", negation: true, both, .files, "dump and take again file locks") { $0.fileLocks = $1.isOn },
        OptionRow("file-validation", taking: .required("MODE"), both, .files, "how a restore knows a file again: filesize or buildid (default)") {
            (options, value) throws(OptionError) in options.fileValidation = try value.choice()
        },
        OptionRow("skip-file-rwx-check", negation: true, [.restore, .receive], .files, "do not compare the permissions of files") { $0.skipFileRwxCheck = $1.isOn },
        OptionRow("inherit-fd", taking: .required("fd[N]:RESOURCE"), [.restore, .receive], .files, "use our open descriptor N for what the images call RESOURCE; repeatable") {
            (options, value) throws(OptionError) in
            let (kind, given) = try value.inheritedDescriptor()
            if kind == "fd" { options.inheritedDescriptors.append(given) } else { options.debugTexts.append(given) }
        },
        OptionRow("external", taking: .required("KIND[ID]:VALUE"), both, .files, "a resource that is not part of the tree; repeatable") {
            (options, value) throws(OptionError) in options.externals.append(try value.external())
        },
        OptionRow("allow-uprobes", negation: true, both, .files, "accept tasks with a [uprobes] mapping") { $0.allowUprobes = $1.isOn },
    ]

    static let memory: [OptionRow] = [
        OptionRow("prev-images-dir", taking: .required("DIR"), [.dump, .preDump, .pageServer], .memory, "directory of the parent images, as seen from -D") {
            $0.previousImagesDirectory = $1.text
        },
        OptionRow("track-mem", negation: true, [.dump, .preDump], .memory, "notice changes of memory from now on, for the next dump") { $0.trackMemory = $1.isOn },
        OptionRow("auto-dedup", negation: true, [.dump, .preDump, .restore, .pageServer], .memory, "free pages in images as newer ones replace or restores use them") {
            $0.autoDedup = $1.isOn
        },
        OptionRow("pre-dump-mode", taking: .required("MODE"), .preDump, .memory, "splice (default) or read") {
            (options, value) throws(OptionError) in options.preDumpMode = try value.choice()
        },
        OptionRow("lazy-pages", [.dump, .restore, .pageServer], .memory, "keep pages and hand them over on demand") {
            $0.lazyPages = $1.isOn
        },
        OptionRow("stream", negation: true, [.dump, .preDump, .restore, .cpuinfo], .memory, "take or give images through criu-image-streamer") {
            $0.stream = $1.isOn
        },
    ]
}
