import ImageMessages

extension FileEntry {
    /// The member that belongs to the entry's type: its name in the schema and the id in it; nil where it is missing.
    var member: (name: String, id: UInt32)? {
        switch type {
        case .reg: hasReg ? ("reg", reg.id) : nil
        case .pipe: hasPipe ? ("pipe", pipe.id) : nil
        case .fifo: hasFifo ? ("fifo", fifo.id) : nil
        case .inetsk: hasIsk ? ("isk", isk.id) : nil
        case .unixsk: hasUsk ? ("usk", usk.id) : nil
        case .eventfd: hasEfd ? ("efd", efd.id) : nil
        case .eventpoll: hasEpfd ? ("epfd", epfd.id) : nil
        case .inotify: hasIfy ? ("ify", ify.id) : nil
        case .signalfd: hasSgfd ? ("sgfd", sgfd.id) : nil
        case .packetsk: hasPsk ? ("psk", psk.id) : nil
        case .tty: hasTty ? ("tty", tty.id) : nil
        case .fanotify: hasFfy ? ("ffy", ffy.id) : nil
        case .netlinksk: hasNlsk ? ("nlsk", nlsk.id) : nil
        case .ns: hasNsf ? ("nsf", nsf.id) : nil
        case .tunf: hasTunf ? ("tunf", tunf.id) : nil
        case .ext: hasExt ? ("ext", ext.id) : nil
        case .timerfd: hasTfd ? ("tfd", tfd.id) : nil
        case .memfd: hasMemfd ? ("memfd", memfd.id) : nil
        case .bpfmap: hasBpf ? ("bpf", bpf.id) : nil
        case .pidfd: hasPidfd ? ("pidfd", pidfd.id) : nil
        case .stasisIoUring: hasRing ? ("ring", ring.id) : nil
        case .und, .ctlTty, .autofsPipe: nil
        }
    }

    /// Owner and signal of the file; kinds without them give nil.
    var owner: FownEntry? {
        switch type {
        case .reg: reg.fown
        case .pipe: pipe.fown
        case .inetsk: isk.fown
        case .unixsk: usk.fown
        case .eventfd: efd.fown
        case .eventpoll: epfd.fown
        case .inotify: ify.fown
        case .signalfd: sgfd.fown
        case .packetsk: psk.fown
        case .tty: tty.fown
        case .fanotify: ffy.fown
        case .netlinksk: nlsk.fown
        case .ext: ext.fown
        case .timerfd: tfd.fown
        case .memfd: memfd.fown
        case .pidfd: pidfd.fown
        case .bpfmap: bpf.fown
        case .stasisIoUring: ring.fown
        case .fifo, .ns, .tunf, .und, .ctlTty, .autofsPipe: nil
        }
    }
}
