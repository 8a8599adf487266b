import ImageMessages

extension FileEntry {
    /// The member that belongs to the entry's type: its name in the schema and the id in it; nil where it is missing.
    var member: (name: String, id: UInt32)? {
        switch (type, content) {
        case (.reg, .reg(let entry)): ("reg", entry.id)
        case (.pipe, .pipe(let entry)): ("pipe", entry.id)
        case (.fifo, .fifo(let entry)): ("fifo", entry.id)
        case (.inetsk, .isk(let entry)): ("isk", entry.id)
        case (.unixsk, .usk(let entry)): ("usk", entry.id)
        case (.eventfd, .efd(let entry)): ("efd", entry.id)
        case (.eventpoll, .epfd(let entry)): ("epfd", entry.id)
        case (.inotify, .ify(let entry)): ("ify", entry.id)
        case (.signalfd, .sgfd(let entry)): ("sgfd", entry.id)
        case (.packetsk, .psk(let entry)): ("psk", entry.id)
        case (.tty, .tty(let entry)): ("tty", entry.id)
        case (.fanotify, .ffy(let entry)): ("ffy", entry.id)
        case (.netlinksk, .nlsk(let entry)): ("nlsk", entry.id)
        case (.ns, .nsf(let entry)): ("nsf", entry.id)
        case (.tunf, .tunf(let entry)): ("tunf", entry.id)
        case (.ext, .ext(let entry)): ("ext", entry.id)
        case (.timerfd, .tfd(let entry)): ("tfd", entry.id)
        case (.memfd, .memfd(let entry)): ("memfd", entry.id)
        case (.bpfmap, .bpf(let entry)): ("bpf", entry.id)
        case (.pidfd, .pidfd(let entry)): ("pidfd", entry.id)
        case (.stasisIoUring, .ring(let entry)): ("ring", entry.id)
        default: nil
        }
    }

    /// Owner and signal of the file; kinds without them give nil.
    var owner: FownEntry? {
        switch (type, content) {
        case (.reg, .reg(let entry)): entry.fown
        case (.pipe, .pipe(let entry)): entry.fown
        case (.inetsk, .isk(let entry)): entry.fown
        case (.unixsk, .usk(let entry)): entry.fown
        case (.eventfd, .efd(let entry)): entry.fown
        case (.eventpoll, .epfd(let entry)): entry.fown
        case (.inotify, .ify(let entry)): entry.fown
        case (.signalfd, .sgfd(let entry)): entry.fown
        case (.packetsk, .psk(let entry)): entry.fown
        case (.tty, .tty(let entry)): entry.fown
        case (.fanotify, .ffy(let entry)): entry.fown
        case (.netlinksk, .nlsk(let entry)): entry.fown
        case (.ext, .ext(let entry)): entry.fown
        case (.timerfd, .tfd(let entry)): entry.fown
        case (.memfd, .memfd(let entry)): entry.fown
        case (.pidfd, .pidfd(let entry)): entry.fown
        case (.bpfmap, .bpf(let entry)): entry.fown
        case (.stasisIoUring, .ring(let entry)): entry.fown
        default: nil
        }
    }
}
