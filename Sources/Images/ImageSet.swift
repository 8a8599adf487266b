public import ImageMessages

/// The images of one thread that is not its process's leader.
public struct ThreadImages: Sendable {
    public var id: UInt32
    public var core: CoreEntry
}

/// The images of one process. A dead one has its core only.
public struct TaskImages: Sendable {
    public var process: PstreeEntry
    /// The leader's.
    public var core: CoreEntry
    /// In the order of pstree.img, without the leader.
    public var threads: [ThreadImages] = []
    public var ids: TaskKobjIdsEntry?
    public var mm: MmEntry?
    public var fs: FsEntry?
    public var pagemap: Pagemap?

    public var pid: UInt32 { process.pid }
    public var isDead: Bool { core.tc.taskState == TaskState.dead }
    /// Values of task_core_entry.task_state (format 6.2).
    public enum TaskState {
        public static let alive: UInt32 = 1
        public static let dead: UInt32 = 2
        public static let stopped: UInt32 = 3
    }
}

/// Everything a restore reads before it makes anything. Loading finds files that are missing or damaged; `problems` then holds the
/// values against each other.
public struct ImageSet: Sendable {
    public let directory: ImageDirectory
    public let pages: PageChain
    public let inventory: InventoryEntry
    /// Parents first.
    public let tasks: [TaskImages]
    /// Place in `tasks` by pid.
    let placeOfTask: [UInt32: Int]
    public let files: FileTable
    /// Descriptor tables by files_id.
    public let descriptors: [UInt32: [FdinfoEntry]]
    public let seccomp: SeccompEntry
    public let cgroup: CgroupEntry?
    public let remaps: [RemapFilePathEntry]
    public let memfds: [MemfdInodeEntry]
    public let ttys: [TtyInfoEntry]
    public let ttyData: [TtyDataEntry]
    public let pipeData: [EntryWithPayload<PipeDataEntry>]
    public let fifoData: [EntryWithPayload<PipeDataEntry>]
    public let socketQueues: [EntryWithPayload<SkPacketEntry>]
    public let fileLocks: [FileLockEntry]
    public let namespaces: NamespaceImages

    /// - Parameter verifies: whether `pages` comes with checksums.
    public init(_ directory: ImageDirectory, pageSize: UInt64 = 4096, verifies: Bool = false) throws(ImageError) {
        self.directory = directory
        inventory = try directory.inventory()
        pages = try PageChain(directory, pageSize: pageSize, isWithoutContent: inventory.stasis.checkOnly, verifies: verifies)
        var tasks: [TaskImages] = []
        var descriptors: [UInt32: [FdinfoEntry]] = [:]
        for process in try directory.pstree() {
            let task = try Self.task(process, directory, pageSize)
            if let table = task.ids?.filesID, descriptors[table] == nil { descriptors[table] = try directory.fdinfo(table) }
            tasks.append(task)
        }
        self.tasks = tasks
        placeOfTask = Dictionary(tasks.enumerated().map { ($1.pid, $0) }, uniquingKeysWith: { first, _ in first })
        self.descriptors = descriptors
        files = try FileTable(try directory.all(.files))
        seccomp = try directory.seccomp()
        cgroup = try directory.cgroup()
        remaps = try directory.all(.remaps, optional: true)
        memfds = try directory.all(.memfds, optional: true)
        ttys = try directory.all(.ttys, optional: true)
        ttyData = try directory.all(.ttyData, optional: true)
        pipeData = try directory.pipeData()
        fifoData = try directory.fifoData()
        socketQueues = try directory.socketQueues()
        fileLocks = try directory.all(.fileLocks, optional: true)
        namespaces = try NamespaceImages(of: tasks, besides: inventory.rootIds, directory)
    }

    /// The images of a process.
    public subscript(pid: UInt32) -> TaskImages? { placeOfTask[pid].map { tasks[$0] } }

    private static func task(_ process: PstreeEntry, _ directory: ImageDirectory, _ pageSize: UInt64) throws(ImageError) -> TaskImages {
        var task = TaskImages(process: process, core: try directory.single(.core, process.pid))
        if task.isDead { return task }
        for id in process.threads.dropFirst() { task.threads.append(ThreadImages(id: id, core: try directory.single(.core, id))) }
        task.ids = try directory.ids(process.pid)
        task.mm = try directory.single(.mm, process.pid)
        task.fs = try directory.fs(process.pid)
        task.pagemap = try directory.checkedPagemap(.pagemap, process.pid, pageSize: pageSize)
        return task
    }
}

/// The images of the namespaces that the tree does not share with the dumping process, by namespace id.
public struct NamespaceImages: Sendable {
    public struct IPC: Sendable {
        public var variables: IpcVarEntry
        public var sharedMemory: [EntryWithPayload<IpcShmEntry>]
        public var messageQueues: [MessageQueueImage]
        public var semaphores: [SemaphoreSetImage]
    }
    public private(set) var uts: [UInt32: UtsnsEntry] = [:]
    public private(set) var ipc: [UInt32: IPC] = [:]
    public private(set) var user: [UInt32: UsernsEntry] = [:]
    public private(set) var time: [UInt32: TimensEntry] = [:]
    public private(set) var mounts: [UInt32: [MntEntry]] = [:]
    /// Without those whose images are missing: a tree may be put into another one.
    public private(set) var net: [UInt32: NetworkImages] = [:]
    /// External ones only; others have no image.
    public private(set) var pid: [UInt32: PidnsEntry] = [:]

    init(of tasks: [TaskImages], besides host: TaskKobjIdsEntry, _ directory: ImageDirectory) throws(ImageError) {
        for ids in tasks.compactMap(\.ids) {
            if ids.utsNsID != host.utsNsID, uts[ids.utsNsID] == nil { uts[ids.utsNsID] = try directory.single(.utsNamespace, ids.utsNsID) }
            if ids.userNsID != host.userNsID, user[ids.userNsID] == nil { user[ids.userNsID] = try directory.single(.userNamespace, ids.userNsID) }
            if ids.hasTimeNsID, ids.timeNsID != host.timeNsID, time[ids.timeNsID] == nil {
                time[ids.timeNsID] = try directory.single(.timeNamespace, ids.timeNsID)
            }
            if ids.pidNsID != host.pidNsID, pid[ids.pidNsID] == nil { pid[ids.pidNsID] = try directory.singleIfPresent(.pidNamespace, ids.pidNsID) }
            if ids.mntNsID != host.mntNsID, mounts[ids.mntNsID] == nil { mounts[ids.mntNsID] = try directory.all(.mountpoints, ids.mntNsID) }
            if ids.ipcNsID != host.ipcNsID, ipc[ids.ipcNsID] == nil {
                ipc[ids.ipcNsID] = IPC(
                    variables: try directory.single(.ipcVariables, ids.ipcNsID), sharedMemory: try directory.sharedMemorySegments(namespace: ids.ipcNsID),
                    messageQueues: try directory.messageQueues(namespace: ids.ipcNsID), semaphores: try directory.semaphores(namespace: ids.ipcNsID))
            }
            if ids.netNsID != host.netNsID, net[ids.netNsID] == nil, directory.exists(.netNamespace, ids.netNsID) { net[ids.netNsID] = try NetworkImages(ids.netNsID, directory) }
        }
    }
}
