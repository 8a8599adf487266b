package import Graft
package import ImageMessages
package import Linux

/// One kind of open file: how it is recognised and saved, how it is made again. One conformance a file, dump and restore side by side.
///
/// A restore calls, once each, in this order: `make` for all entries of the kind; then, when every open file of the tree exists,
/// `finish`; then, when every descriptor stands at its number in its tasks, `inTask` for each task and its descriptors of this kind.
package protocol OpenFileKind {
    static var type: FdTypes { get }
    /// Whether this kind saves the file. Asked in the order of `OpenFileKinds.all`; cheap tests first (file type, then link text).
    static func claims(_ file: OpenFile) -> Bool
    /// Whether the file is saved only when all else is (`DumpContext.late`): then `dump` is not called, and the kind adds the entry itself.
    static func postpones(_ file: OpenFile, _ context: DumpContext) throws -> Bool
    /// The file's entry; content goes to images of its own through `context.images`.
    static func dump(_ file: OpenFile, _ context: DumpContext) throws -> FileEntry
    /// What `make` and what follows it would refuse on this machine: one `context.verify` for each object. Makes nothing.
    static func check(_ entries: [FileEntry], _ context: RestoreContext) throws
    /// Makes the open files of these entries and hands each to `context.made(id, descriptor)`. All processes exist, stopped.
    static func make(_ entries: [FileEntry], _ context: RestoreContext) throws
    /// What needs other open files: queued descriptors, data, owners of files that do not exist before.
    static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws
    /// What the kernel ties to a task or its descriptor numbers: calls that run in it (epoll entries, controlling terminals).
    static func inTask(_ descriptors: [(number: Int32, entry: FileEntry)], _ task: any RestoredTask, _ context: RestoreContext) throws
}

extension OpenFileKind {
    package static func check(_ entries: [FileEntry], _ context: RestoreContext) throws {}
    package static func postpones(_ file: OpenFile, _ context: DumpContext) throws -> Bool { false }
    package static func finish(_ entries: [FileEntry], _ context: RestoreContext) throws {}
    package static func inTask(_ descriptors: [(number: Int32, entry: FileEntry)], _ task: any RestoredTask, _ context: RestoreContext) throws {}
}

/// A process that is being restored and runs batches for us; its final credentials, limits and memory are not all there yet.
package protocol RestoredTask: AnyObject {
    var pid: ThreadID { get }
    var grafted: GraftedTask { get }
    /// Gives descriptors of ours to the process, at numbers that are free in it.
    func receive(_ descriptors: [FileDescriptor]) throws -> [Int32]
}

/// Every kind of open file, in the order they are asked; RegularFile claims what is left with a path.
package enum OpenFileKinds {
    package static var all: [any OpenFileKind.Type] {
        [
            UnixSocket.self,
            InetSocket.self,
            NetlinkSocket.self,
            PacketSocket.self,
            TunFile.self,
            Terminal.self,
            Pipe.self,
            Fifo.self,
            Eventfd.self,
            IOUringFile.self,
            Epoll.self,
            Timerfd.self,
            Signalfd.self,
            Pidfd.self,
            Memfd.self,
            BPFMapFile.self,
            Inotify.self,
            Fanotify.self,
            NamespaceFile.self,
            PluginFile.self,
            RegularFile.self,
        ]
    }
}
