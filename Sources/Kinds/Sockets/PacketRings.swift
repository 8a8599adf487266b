import Glibc
import ImageMessages
import Linux

/// Where the kernel stands in the receive ring of a packet socket, and what waits there to be read (packet(7), net/packet/af_packet.c).
/// The program goes on where it stood in the ring; in a new one, which the kernel fills from its first frame on, it would wait in vain.
/// The kernel does not tell its place: it is found out from what is in the ring. A transmit ring has no such traces.
enum PacketRings {
    private static let user: UInt32 = 1  // TP_STATUS_USER, the same in all versions
    private static let timedOut: UInt32 = 1 << 5  // TP_STATUS_BLK_TMO
    private static let readStatistics: Int32 = 6  // PACKET_STATISTICS

    /// The parts of a ring that change hands: frames, in version 3 (number 2) blocks.
    struct Layout {
        let version: UInt32, blockSize: Int, blocks: Int, frameSize: Int, frames: Int
        init(version: UInt32, _ ring: PacketRing) {
            self.version = version
            (blockSize, blocks, frameSize, frames) = (Int(ring.blockSize), Int(ring.blockNr), Int(ring.frameSize), Int(ring.frameNr))
        }
        var hasBlocks: Bool { version == 2 }
        var places: Int { hasBlocks ? blocks : frames }
        var size: Int { hasBlocks ? blockSize : frameSize }
        func offset(_ place: Int) -> Int {
            if hasBlocks { return place * blockSize }
            let inBlock = blockSize / frameSize
            return place / inBlock * blockSize + place % inBlock * frameSize
        }
        /// Of the word with the status: first in struct tpacket_hdr and tpacket2_hdr, third in struct tpacket_block_desc.
        func status(_ place: Int) -> Int { offset(place) + (hasBlocks ? 8 : 0) }
    }

    // MARK: Dump

    static func dump(_ socket: FileDescriptor, _ entry: inout PacketSockEntry) throws {
        guard entry.hasRxRing, entry.protocol != 0 else { return }
        let layout = Layout(version: entry.version, entry.rxRing)
        let ring = try MappedFile(socket, count: bytes(entry))
        let waiting = (0..<layout.places).filter { ring.word(layout.status($0)) & user != 0 }
        for place in waiting { entry.unread.append(part(place, ring.read(layout.offset(place)..<(layout.offset(place) + layout.size)))) }
        if layout.hasBlocks {
            let current = currentBlock(layout, ring)
            if !waiting.contains(current), let begun = begunBlock(layout, ring, current) {
                entry.unread.append(part(current, begun))
                entry.rxNext = UInt32((current + 1) % layout.places)
            } else { entry.rxNext = UInt32(waiting.contains(current) ? (current + 1) % layout.places : current) }
        } else { entry.rxNext = UInt32(nextFrame(layout, ring, waiting)) }
    }

    private static func part(_ place: Int, _ content: [UInt8]) -> StasisPacketFrame {
        var frame = StasisPacketFrame()
        (frame.place, frame.content) = (UInt32(place), .init(imageBytes: content))
        return frame
    }
    private static func bytes(_ entry: PacketSockEntry) -> Int {
        (entry.hasRxRing ? Int(entry.rxRing.blockSize) * Int(entry.rxRing.blockNr) : 0) + (entry.hasTxRing ? Int(entry.txRing.blockSize) * Int(entry.txRing.blockNr) : 0)
    }

    /// Behind the frames that the program has not given back; where all or none are given back, behind the one that came last.
    private static func nextFrame(_ layout: Layout, _ ring: MappedFile, _ waiting: [Int]) -> Int {
        func before(_ place: Int) -> Int { (place + layout.places - 1) % layout.places }
        func time(_ place: Int) -> UInt64? {  // length and time stamp stay in frames that were given back
            let at = layout.offset(place), v1 = layout.version == 0
            guard ring.word(at + (v1 ? 8 : 4)) != 0 else { return nil }
            return UInt64(ring.word(at + (v1 ? 20 : 16))) << 32 | UInt64(ring.word(at + (v1 ? 24 : 20)))
        }
        let held = Set(waiting)
        let all = Array(0..<layout.places)
        let candidates = held.isEmpty || held.count == layout.places
            ? all.filter { place in time(before(place)).map { last in time(place).map { $0 < last } ?? true } ?? false }
            : all.filter { !held.contains($0) && held.contains(before($0)) }
        return candidates.max { (time(before($0)) ?? 0) < (time(before($1)) ?? 0) } ?? 0
    }

    /// Blocks are numbered as they are opened.
    private static func currentBlock(_ layout: Layout, _ ring: MappedFile) -> Int {
        func number(_ block: Int) -> UInt64 { UInt64(ring.word(layout.offset(block) + 24)) | UInt64(ring.word(layout.offset(block) + 28)) << 32 }
        return (0..<layout.places).max { number($0) < number($1) } ?? 0
    }

    /// A block that the kernel is filling, as if its time had run out now; nil when it is empty.
    private static func begunBlock(_ layout: Layout, _ ring: MappedFile, _ block: Int) -> [UInt8]? {
        var bytes = ring.read(layout.offset(block)..<(layout.offset(block) + layout.size))
        func word(_ at: Int) -> Int { Int(bytes.word(UInt32.self, at: at)) }
        func set(_ at: Int, _ value: UInt32) { for byte in 0..<4 where at + byte < bytes.count { bytes[at + byte] = UInt8(truncatingIfNeeded: value >> (8 * byte)) } }
        let packets = word(12)
        if packets == 0 { return nil }
        var at = word(16)  // offset_to_first_pkt
        for _ in 1..<max(packets, 1) where at + 48 <= bytes.count { at += word(at) }  // tp_next_offset, first in struct tpacket3_hdr
        guard at + 48 <= bytes.count else { return nil }
        set(at, 0)
        set(40, UInt32(truncatingIfNeeded: word(at + 4)))  // ts_last_pkt
        set(44, UInt32(truncatingIfNeeded: word(at + 8)))
        set(8, user | timedOut)
        return bytes
    }

    // MARK: Restore

    /// On a socket with its rings that takes no packets of the program's yet. It is bound to the loopback interface afterwards.
    static func restore(_ entry: PacketSockEntry, _ socket: FileDescriptor) throws {
        if !entry.hasRxRing || (entry.rxNext == 0 && entry.unread.isEmpty) { return }
        let layout = Layout(version: entry.version, entry.rxRing)
        guard layout.frameSize > 0, layout.blockSize >= layout.frameSize, entry.rxNext < layout.places, entry.unread.allSatisfy({ $0.place < layout.places && $0.content.count == layout.size }) else {
            throw CheckpointError("restore", .image("files.img"), "packet socket, file id \(entry.id): what waits in its ring does not fit the ring")
        }
        let ring = try MappedFile(socket, count: bytes(entry))
        if entry.rxNext > 0 { try advance(socket, ring, layout, to: Int(entry.rxNext)) }
        for place in 0..<layout.places { ring.set(0, at: layout.status(place)) }
        for frame in entry.unread { ring.write(Array(frame.content), at: layout.offset(Int(frame.place))) }
        _ = try? socket.option(readStatistics, level: 263, room: 12)  // reading sets the counters to zero
    }

    /// Packets of a type of their own through the loopback interface, until the kernel stands where it stood. That a block is full it
    /// sees at the packet that does not fit, which must not go into the next one: that one is shown as taken for as long.
    private static func advance(_ socket: FileDescriptor, _ ring: MappedFile, _ layout: Layout, to next: Int) throws {
        let type = UInt16(0x8f00) | UInt16(truncatingIfNeeded: getpid() & 0xff)
        let address = SocketAddress(bytes: [17, 0, UInt8(type >> 8), UInt8(type & 0xff)] + little32(try Interface("lo").index()) + [UInt8](repeating: 0, count: 12))
        try socket.bind(address)
        let sender = try FileDescriptor.socket(17, 3)  // AF_PACKET, SOCK_RAW
        let length = layout.hasBlocks ? min(30000, max(64, layout.blockSize / 4)) : 64
        let packet = [UInt8](repeating: 0, count: 12) + [UInt8(type >> 8), UInt8(type & 0xff)] + [UInt8](repeating: 0, count: length - 14)
        if layout.hasBlocks { ring.set(user, at: layout.status(next)) }
        for _ in 0..<(layout.hasBlocks ? next * (layout.blockSize / length + 2) : next) {
            try sender.send(packet, to: address)
            if layout.hasBlocks && ring.word(layout.status(next - 1)) & user != 0 { break }
        }
        for _ in 0..<2000 where ring.word(layout.status(next - 1)) & user == 0 { usleep(500) }
        guard ring.word(layout.status(next - 1)) & user != 0 else {
            throw CheckpointError("restore", .object("packet socket with a ring"), "the kernel can't be brought to the place in the ring where it stood", remedy: "set the loopback interface up: ip link set lo up")
        }
    }
}
