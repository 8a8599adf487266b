import Foundation
import ImageMessages
import Images
import Testing

@Suite("mutated images") struct MutationTests {
    /// Runs every reader over what is in a directory. What they say doesn't matter; that they come back does.
    private func readEverything(_ directory: ImageDirectory) {
        do { _ = try ImageSet(directory).problems() } catch {}
        _ = try? directory.bpfMaps()
    }

    private func readAlone(_ name: String, _ directory: ImageDirectory) {
        guard let (kind, number) = ImageKind.named(name) else { return }
        _ = try? pieces(name, kind, in: directory)
        switch kind.prefix {
        case "ghost-file-": _ = try? directory.ghost(UInt32(truncatingIfNeeded: number))
        case "tcp-stream-": _ = try? directory.tcpStream(inode: UInt32(truncatingIfNeeded: number))
        case "ipcns-msg-": _ = try? directory.messageQueues(namespace: UInt32(truncatingIfNeeded: number))
        case "ipcns-sem-": _ = try? directory.semaphores(namespace: UInt32(truncatingIfNeeded: number))
        case "ipcns-shm-": _ = try? directory.sharedMemorySegments(namespace: UInt32(truncatingIfNeeded: number))
        case "pagemap-", "pagemap-shmem-":
            _ = try? PageChain(directory).extents(of: kind.prefix == "pagemap-" ? .pagemap : .sharedPagemap, number)
        default: break
        }
    }

    /// One change a storage fault or an attacker might make: flipped bytes, cut off, lengths blown up, parts doubled or exchanged.
    private func mutated(_ original: [UInt8], _ random: inout Seeded) -> [UInt8] {
        var bytes = original
        guard !bytes.isEmpty else { return [UInt8.random(in: 0...255, using: &random)] }
        func place() -> Int { Int.random(in: 0..<bytes.count, using: &random) }
        switch Int.random(in: 0..<7, using: &random) {
        case 0: bytes.removeLast(bytes.count - place())
        case 1: for _ in 0..<Int.random(in: 1...8, using: &random) { bytes[place()] ^= 1 << UInt8.random(in: 0..<8, using: &random) }
        case 2: for _ in 0..<Int.random(in: 1...4, using: &random) { bytes[place()] = [0, 1, 0x7f, 0x80, 0xff].randomElement(using: &random)! }
        case 3:
            let at = place()
            for index in at..<min(at + 10, bytes.count) { bytes[index] = 0xff }
        case 4:
            let at = place(), count = min(Int.random(in: 1...64, using: &random), bytes.count - at)
            bytes.insert(contentsOf: Array(bytes[at..<at + count]), at: place())
        case 5:
            let at = place()
            bytes.removeSubrange(at..<min(at + Int.random(in: 1...32, using: &random), bytes.count))
        default:
            // the word that gives the first entry's length
            if bytes.count >= 12 { for index in 8..<12 { bytes[index] = UInt8.random(in: 0...255, using: &random) } }
        }
        return bytes
    }

    @Test("no reader traps or hangs", arguments: Golden.all, [1, 2])
    func survives(golden: Golden, seed: UInt64) throws {
        let rounds = 150  // of 10 directories and 2 seeds: 3,000 changed images
        let scratch = try Scratch(golden, withParent: golden.images.hasSuffix("images-2"))
        var random = Seeded(state: seed &* 7919)
        let names = try golden.messageImages.map(\.name)
        var refused = 0
        for _ in 0..<rounds {
            let name = names.randomElement(using: &random)!
            let original = try scratch.directory.contents(of: name)
            try scratch.write(name, mutated(original, &random))
            readAlone(name, scratch.directory)
            readEverything(scratch.directory)
            if (try? ImageSet(scratch.directory).problems())?.isEmpty != true { refused += 1 }
            try scratch.write(name, original)
        }
        // Most changes break something that is checked; if hardly any did, the readers would not be reading.
        #expect(refused > rounds / 4, "\(refused) of \(rounds) were refused")
        #expect(try ImageSet(scratch.directory).problems() == [])
    }

    @Test("an image cut off anywhere inside its entry is refused", arguments: ["core-28540.img", "mm-28540.img", "inventory.img", "fs-28540.img", "ids-28540.img"])
    func truncation(name: String) throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        let original = try scratch.directory.contents(of: name)
        for count in 0..<original.count {
            try scratch.write(name, Array(original.prefix(count)))
            #expect(throws: ImageError.self, "\(count) bytes of \(original.count)") { try ImageSet(scratch.directory) }
        }
    }

    @Test("a length past the end is refused before memory is taken for it")
    func hugeLength() throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        let magic = ImageFile<CoreEntry>.core.kind.magic.bytes
        try scratch.write("core-28540.img", magic + [0xff, 0xff, 0xff, 0xff, 1, 2, 3])
        let error = #expect(throws: ImageError.self) { try scratch.directory.single(.core, 28540) }
        #expect(error?.offset == 8)
        // a sparse file has the bytes, but no entry is that long
        try scratch.write("core-28540.img", magic + [0xff, 0xff, 0xff, 0x7f])
        let handle = try FileHandle(forWritingTo: URL(filePath: "\(scratch.path)/core-28540.img"))
        try handle.truncate(atOffset: 1 << 32)
        #expect(throws: ImageError.self) { try scratch.directory.single(.core, 28540) }
    }

    @Test("what is not a regular file is refused and not waited for")
    func fifo() throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        try scratch.remove("core-28540.img")
        let made = unsafe mkfifo("\(scratch.path)/core-28540.img", 0o644)
        #expect(made == 0)
        #expect(throws: ImageError.self) { try ImageSet(scratch.directory) }
    }
}
