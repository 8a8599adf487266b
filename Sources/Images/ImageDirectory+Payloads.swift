public import ImageMessages

/// Content of a file that has no name any more (format 11.4).
public struct GhostImage: Sendable {
    public enum Content: Sendable {
        /// A directory, fifo, device or symbolic link.
        case none
        /// The whole content.
        case whole(ImagePayload)
        /// The data areas, ascending; the rest of `size` is holes.
        case chunks([(offset: UInt64, payload: ImagePayload)], size: UInt64)
    }
    public var entry: GhostFileEntry
    public var content: Content
}

/// A System V message queue with its messages, oldest first.
public struct MessageQueueImage: Sendable {
    public var entry: IpcMsgEntry
    public var messages: [(type: UInt64, body: ImagePayload)]
}

/// A System V semaphore set with its values.
public struct SemaphoreSetImage: Sendable {
    public var entry: IpcSemEntry
    public var values: [UInt16]
}

/// A connection: its state, what the program has not read, what it has written and the peer not acknowledged.
public struct TCPStreamImage: Sendable {
    public var entry: TcpStreamEntry
    public var receiveQueue: ImagePayload
    public var sendQueue: ImagePayload
}

public struct BPFMapImage: Sendable {
    public var entry: BpfmapDataEntry
    public var keys: ImagePayload
    public var values: ImagePayload
}

// Files in which bytes follow the entries. A missing file counts as empty where the format allows it to be absent.
extension ImageDirectory {
    public func pipeData() throws(ImageError) -> [EntryWithPayload<PipeDataEntry>] { try queued(.pipesData) }
    public func fifoData() throws(ImageError) -> [EntryWithPayload<PipeDataEntry>] { try queued(.fifoData) }

    private func queued(_ file: ImageFile<PipeDataEntry>) throws(ImageError) -> [EntryWithPayload<PipeDataEntry>] {
        guard exists(file) else { return [] }
        var reader = try reader(file)
        var found: [EntryWithPayload<PipeDataEntry>] = []
        while let entry = try reader.next(PipeDataEntry.self) {
            found.append(EntryWithPayload(entry: entry, payload: try reader.payloadRange(UInt64(entry.bytes), of: "bytes")))
        }
        return found
    }

    /// Packets waiting in unix sockets, in queue order within one receiver.
    public func socketQueues() throws(ImageError) -> [EntryWithPayload<SkPacketEntry>] {
        guard exists(.socketQueues) else { return [] }
        var reader = try reader(.socketQueues)
        var found: [EntryWithPayload<SkPacketEntry>] = []
        while let entry = try reader.next(SkPacketEntry.self) {
            found.append(EntryWithPayload(entry: entry, payload: try reader.payloadRange(UInt64(entry.length), of: "length")))
        }
        return found
    }

    public func tcpStream(inode: UInt32) throws(ImageError) -> TCPStreamImage {
        var reader = try reader(.tcpStream, inode)
        let entry = try reader.single(TcpStreamEntry.self)
        let receiveQueue = try reader.payloadRange(UInt64(entry.inqLen), of: "inq_len")
        let sendQueue = try reader.payloadRange(UInt64(entry.outqLen), of: "outq_len")
        try reader.finish()
        return TCPStreamImage(entry: entry, receiveQueue: receiveQueue, sendQueue: sendQueue)
    }

    /// The queues themselves, which are read with the entry.
    public func tcpStreamContent(inode: UInt32) throws(ImageError) -> (entry: TcpStreamEntry, receiveQueue: [UInt8], sendQueue: [UInt8]) {
        var reader = try reader(.tcpStream, inode)
        let entry = try reader.single(TcpStreamEntry.self)
        let receiveQueue = try reader.payload(UInt64(entry.inqLen)), sendQueue = try reader.payload(UInt64(entry.outqLen))
        try reader.finish()
        return (entry, receiveQueue, sendQueue)
    }

    public func ghost(_ id: UInt32) throws(ImageError) -> GhostImage {
        var reader = try reader(.ghostFile, id)
        let entry = try reader.single(GhostFileEntry.self)
        guard entry.mode & 0o170000 == 0o100000 else {
            try reader.finish()
            return GhostImage(entry: entry, content: .none)
        }
        guard entry.chunks else { return GhostImage(entry: entry, content: .whole(reader.rest())) }
        guard entry.hasSize else { throw ImageError(reader.name, entry: 0, field: "size", "is missing, chunks need it") }
        var chunks: [(offset: UInt64, payload: ImagePayload)] = []
        var end: UInt64 = 0
        while let chunk = try reader.next(GhostChunkEntry.self) {
            let (chunkEnd, overflows) = chunk.off.addingReportingOverflow(chunk.len)
            guard !overflows, chunk.off >= end, chunkEnd <= entry.size else {
                throw ImageError(reader.name, entry: reader.entry - 1, field: "off", "the chunk at \(chunk.off) of \(chunk.len) bytes is out of order or past the file's end")
            }
            end = chunkEnd
            chunks.append((chunk.off, try reader.payloadRange(chunk.len, of: "len")))
        }
        return GhostImage(entry: entry, content: .chunks(chunks, size: entry.size))
    }

    /// Semaphore sets with their values.
    public func semaphores(namespace: UInt32) throws(ImageError) -> [SemaphoreSetImage] {
        guard exists(.ipcSemaphores, namespace) else { return [] }
        var reader = try reader(.ipcSemaphores, namespace)
        var found: [SemaphoreSetImage] = []
        while let entry = try reader.next(IpcSemEntry.self) {
            let payload = try reader.payloadRange(UInt64(entry.nsems) * 2, paddedTo: 8, of: "nsems")
            let bytes = try reader.bytes(in: payload.range)
            let values = stride(from: 0, to: bytes.count, by: 2).map { UInt16(bytes[$0]) | UInt16(bytes[$0 + 1]) << 8 }
            found.append(SemaphoreSetImage(entry: entry, values: values))
        }
        return found
    }

    public func messageQueues(namespace: UInt32) throws(ImageError) -> [MessageQueueImage] {
        guard exists(.ipcMessages, namespace) else { return [] }
        var reader = try reader(.ipcMessages, namespace)
        var found: [MessageQueueImage] = []
        while let entry = try reader.next(IpcMsgEntry.self) {
            var queue = MessageQueueImage(entry: entry, messages: [])
            for _ in 0..<entry.qnum {
                let message = try reader.single(IpcMsg.self)
                queue.messages.append((message.mtype, try reader.payloadRange(UInt64(message.msize), paddedTo: 8, of: "msize")))
            }
            found.append(queue)
        }
        return found
    }

    /// System V segments. Old images hold the content here, later ones in `pagemap-shmem-<id>`; then the payload is empty.
    public func sharedMemorySegments(namespace: UInt32) throws(ImageError) -> [EntryWithPayload<IpcShmEntry>] {
        guard exists(.ipcSharedMemory, namespace) else { return [] }
        var reader = try reader(.ipcSharedMemory, namespace)
        var found: [EntryWithPayload<IpcShmEntry>] = []
        while let entry = try reader.next(IpcShmEntry.self) {
            let payload = try reader.payloadRange(entry.inPagemaps ? 0 : entry.size, paddedTo: 4, of: "size")
            found.append(EntryWithPayload(entry: entry, payload: payload))
        }
        return found
    }

    public func bpfMaps() throws(ImageError) -> [BPFMapImage] {
        guard exists(.bpfmapData) else { return [] }
        var reader = try reader(.bpfmapData)
        var found: [BPFMapImage] = []
        while let entry = try reader.next(BpfmapDataEntry.self) {
            let keys = try reader.payloadRange(UInt64(entry.keysBytes), of: "keys_bytes")
            found.append(BPFMapImage(entry: entry, keys: keys, values: try reader.payloadRange(UInt64(entry.valuesBytes), of: "values_bytes")))
        }
        return found
    }
}
