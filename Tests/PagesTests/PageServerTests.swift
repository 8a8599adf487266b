import Foundation
import Glibc
import Images
@testable import Kinds
import Linux
@testable import Pages
import Testing

@Suite("page server") struct PageServerTests {
    /// A directory that goes with the value.
    final class Scratch {
        let path = "/tmp/stasis-pages-\(UUID().uuidString)"
        let descriptor: FileDescriptor
        init() throws {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
            descriptor = try FileDescriptor.open(path, O_RDONLY | O_DIRECTORY)
        }
        deinit { try? FileManager.default.removeItem(atPath: path) }
        var names: [String] { ((try? Files.names(in: path)) ?? []).sorted() }
    }

    /// Gives `bytes` to a server, then the end of the stream. Returns what it answered.
    private func serve(_ bytes: [UInt8], in scratch: Scratch, source: (any PageSource)? = nil) throws -> [UInt8] {
        let (client, its) = try FileDescriptor.socketPair(1, 1)
        try client.setOption(SocketOption.sendBuffer, to: Int32(1 << 20))
        try client.write(bytes)
        try client.shutdown(1)
        try PageServer(PageConnection(its), images: scratch.descriptor, source: source, Log(level: .silent)).serve()
        try its.shutdown(1)
        return try client.readAll()
    }
    private let page = [UInt8](repeating: 7, count: 4096)
    private func add(_ pages: UInt64, at address: UInt64, of pid: UInt32 = 42, flags: UInt32 = 4) -> [UInt8] {
        PageRequest(.addWithFlags, flags: UInt16(flags), pages: pages, address: address, subject: PageSubject.task(pid).wireNumber).bytes
    }
    private func open(_ pid: UInt32 = 42) -> [UInt8] { PageRequest(.openWithAnswer, subject: PageSubject.task(pid).wireNumber).bytes }
    private let close = PageRequest(.close).bytes

    @Test("a request is 32 bytes in the order of the format") func layout() {
        let request = PageRequest(.addWithFlags, flags: 6, pages: 3, address: 0x1000, subject: 42 << 8 | 1)
        #expect(request.bytes.count == 32 && request.bytes[..<4] == [6, 0, 6, 0] && request.bytes[8] == 3 && request.bytes[17] == 0x10 && request.bytes[25] == 42)
        #expect(PageRequest(request.bytes) == request)
        #expect(PageRequest([0xff] + request.bytes.dropFirst()) == nil && PageRequest([1]) == nil)
    }

    @Test("what comes is in the images") func takes() throws {
        let scratch = try Scratch()
        let answer = try serve(open() + add(1, at: 0x1000) + page + add(2, at: 0x5000, flags: 2) + add(1, at: 0x9000, flags: 6) + page + close, in: scratch)
        #expect(answer == [0, 0, 0, 0, 0])
        #expect(scratch.names == ["checksums-65537.img", "pagemap-42.img", "pages-65537.img"])
        let pagemap = try ImageDirectory(scratch.descriptor).checkedPagemap(.pagemap, 42)
        #expect(pagemap.runs.map(\.address) == [0x1000, 0x5000, 0x9000] && pagemap.bytesInPagesFile == 8192)
        #expect(try ImageDirectory(scratch.descriptor).contents(of: "pages-65537.img") == page + page)
    }

    @Test("a damaged stream ends the connection, and leaves no images or whole ones") func damage() throws {
        let sound = open() + add(1, at: 0x1000) + page + add(2, at: 0x5000, flags: 2) + open(43) + add(2, at: 0x9000, flags: 6) + page + page + close
        var state: UInt64 = 1
        func random(_ count: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % count
        }
        let heads = [0, 32, 64 + 4096, 96 + 4096, 128 + 4096, 160 + 3 * 4096]
        for _ in 0..<300 {
            let scratch = try Scratch()
            var bytes = sound
            for _ in 0...random(3) {
                let at = heads[random(heads.count)] + random(32)
                if at < bytes.count { bytes[at] = [0, 1, 0x7f, 0x80, 0xff, UInt8(random(256))][random(6)] }
            }
            if random(4) == 0 { bytes.removeLast(random(bytes.count)) }
            do { _ = try serve(bytes, in: scratch) } catch { #expect(scratch.names == [], "\(error)") }
        }
    }

    @Test("what is not sound is refused, and leaves nothing", arguments: [
        "pages before open", "a page out of order", "flags", "too many pages", "an odd address", "an end within a page", "an end without close", "the same task twice", "no subject", "a request that is asked of a giver",
    ]) func refuses(what: String) throws {
        let bytes: [UInt8] = switch what {
        case "pages before open": add(1, at: 0x1000) + page + close
        case "a page out of order": open() + add(1, at: 0x2000) + page + add(1, at: 0x1000) + page + close
        case "flags": open() + add(1, at: 0x1000, flags: 8) + page + close
        case "too many pages": open() + add(.max / 4096, at: 0x1000) + page + close
        case "an odd address": open() + add(1, at: 0x1001) + page + close
        case "an end within a page": open() + add(1, at: 0x1000) + page.dropLast()
        case "an end without close": open() + add(1, at: 0x1000) + page
        case "the same task twice": open() + open() + close
        case "no subject": PageRequest(.open, subject: 42 << 8 | 99).bytes + close
        default: PageRequest(.get, pages: 1, address: 0x1000, subject: 42).bytes
        }
        let scratch = try Scratch()
        #expect(throws: (any Error).self) { try serve(bytes, in: scratch) }
        #expect(scratch.names == [])
    }

    @Test("noise neither crashes nor leaves anything") func noise() throws {
        var random = SystemRandomNumberGenerator()
        for round in 0..<200 {
            let scratch = try Scratch()
            var bytes = open() + add(1, at: 0x1000) + page + add(1, at: 0x3000) + page + close
            if round % 2 == 0 { bytes = (0..<Int.random(in: 1...300, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) } }
            else { for _ in 0..<3 { bytes[Int.random(in: 0..<64, using: &random)] = UInt8.random(in: 0...255, using: &random) } }
            do { _ = try serve(bytes, in: scratch) } catch { #expect(scratch.names == [], "\(error)") }
        }
    }

    @Test("pages that are asked for come from the images, as many as lie together") func gives() throws {
        let scratch = try Scratch()
        _ = try serve(open() + add(2, at: 0x1000, flags: 6) + page + page + close, in: scratch)
        let source = ImagePageSource(try PageChain(try ImageDirectory(scratch.descriptor)))
        let answer = try serve(PageRequest(.get, pages: 5, address: 0x2000, subject: 42).bytes + close, in: scratch, source: source)
        #expect(answer == PageRequest(.addWithFlags, flags: 4, pages: 1, address: 0x2000, subject: 42).bytes + page + [0, 0, 0, 0])
    }
}

@Suite("dedup") struct DedupTests {
    @Test("what both lists have") func common() {
        #expect(MemoryTracker.common([0..<10, 20..<30], [5..<22, 25..<40]) == [5..<10, 20..<22, 25..<30])
        #expect(MemoryTracker.common([], [1..<2]) == [] && MemoryTracker.common([1..<2], [2..<3]) == [])
    }
}
