/// What an entry of files.img describes: one kind of open file, so that at most one of these is true.
extension file_entry {
    public var hasReg: Bool { if case .reg = content { true } else { false } }
    public var hasIsk: Bool { if case .isk = content { true } else { false } }
    public var hasNsf: Bool { if case .nsf = content { true } else { false } }
    public var hasPsk: Bool { if case .psk = content { true } else { false } }
    public var hasNlsk: Bool { if case .nlsk = content { true } else { false } }
    public var hasEfd: Bool { if case .efd = content { true } else { false } }
    public var hasEpfd: Bool { if case .epfd = content { true } else { false } }
    public var hasSgfd: Bool { if case .sgfd = content { true } else { false } }
    public var hasTunf: Bool { if case .tunf = content { true } else { false } }
    public var hasTfd: Bool { if case .tfd = content { true } else { false } }
    public var hasIfy: Bool { if case .ify = content { true } else { false } }
    public var hasFfy: Bool { if case .ffy = content { true } else { false } }
    public var hasFifo: Bool { if case .fifo = content { true } else { false } }
    public var hasPipe: Bool { if case .pipe = content { true } else { false } }
    public var hasMemfd: Bool { if case .memfd = content { true } else { false } }
    public var hasBpf: Bool { if case .bpf = content { true } else { false } }
    public var hasPidfd: Bool { if case .pidfd = content { true } else { false } }
    public var hasRing: Bool { if case .ring = content { true } else { false } }
}
