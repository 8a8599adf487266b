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

    @Test("it is the same in whatever pieces it comes", arguments: [1, 31, 4095, 100_000]) func pieces(length: Int) throws {
        let scratch = try Scratch()
        var sound = open()
        for number in 0..<100 { sound += add(1, at: UInt64(number) * 0x2000) + page.map { _ in UInt8(number) } }
        sound += add(300, at: 0x100_0000) + [UInt8](repeating: 9, count: 300 * 4096) + close
        let (client, its) = try FileDescriptor.socketPair(1, 1), images = scratch.descriptor, bytes = sound
        let sender = Workers(1)
        sender.run {
            // Byte by byte only at the beginning.
            var at = 0
            while at < bytes.count {
                let end = min(bytes.count, at + (at > 20_000 ? 100_000 : length))
                try client.write(Array(bytes[at..<end]))
                at = end
            }
            try client.shutdown(1)
        }
        let server = PageServer(PageConnection(its), images: images, Log(level: .silent))
        #expect(try server.serve() && server.bytes == 400 * 4096)
        try sender.finish()
        let contents = try ImageDirectory(images).contents(of: "pages-65537.img")
        #expect(contents == (0..<100).flatMap { [UInt8](repeating: $0, count: 4096) } + [UInt8](repeating: 9, count: 300 * 4096))
    }

    @Test("pages that come again take the place of older ones, where that is wanted; new ones do not") func replaces() throws {
        let scratch = try Scratch()
        for name in ["1", "2", "3"] { try Files.makeDirectory("\(scratch.path)/\(name)", mode: 0o700) }
        func serve(_ bytes: [UInt8], in name: String, before: String?) throws {
            let images = try FileDescriptor.open("\(scratch.path)/\(name)", O_RDONLY | O_DIRECTORY)
            if let before { try Incremental.link("../\(before)", in: images) }
            let (client, its) = try FileDescriptor.socketPair(1, 1)
            try client.setOption(SocketOption.sendBuffer, to: Int32(1 << 20))
            try client.write(bytes)
            try client.shutdown(1)
            try PageServer(PageConnection(its), images: images, sums: false, replaces: true, Log(level: .silent)).serve()
        }
        func pages(_ values: UInt8...) -> [UInt8] { values.flatMap { [UInt8](repeating: $0, count: 4096) } }
        try serve(open() + add(6, at: 0x1000, flags: 6) + pages(1, 2, 3, 4, 5, 6) + close, in: "1", before: nil)
        // The fourth page is gone; the one behind the last is new.
        try serve(open() + add(2, at: 0x1000, flags: 1) + add(1, at: 0x3000, flags: 6) + pages(33) + add(1, at: 0x5000, flags: 1) + add(2, at: 0x6000, flags: 6) + pages(66, 77) + close, in: "2", before: "1")
        // It is there again.
        try serve(open() + add(1, at: 0x1000, flags: 6) + pages(11) + add(2, at: 0x2000, flags: 1) + add(1, at: 0x4000, flags: 6) + pages(44) + add(1, at: 0x5000, flags: 1) + add(2, at: 0x6000, flags: 1) + close, in: "3", before: "2")
        let newest = try ImageDirectory(path: scratch.path + "/3"), chain = try PageChain(newest)
        let image = try PageImage(chain, .pagemap, 42)
        #expect(try image.content(of: 0x1000..<0x8000) == pages(11, 2, 33, 44, 5, 66, 77))
        #expect(try newest.checkedPagemap(.pagemap, 42).runs.map(\.pages) == [3, 1, 3] && newest.contents(of: "pages-65537.img") == pages(44))
        #expect(try ImageDirectory(path: scratch.path + "/1").size(of: "pages-65537.img") == 6 * 4096)
        #expect(image.mayBeLazy == [0x1000..<0x8000])
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

@Suite("copying pages") struct PageCopierTests {
    private final class Taken { var runs: [PageRuns.Run] = [], bytes: [UInt8] = [], gone: [Range<UInt64>] = [] }

    /// More places than one call takes, pages without content in between, a page that can't be read, and one that is to be blank.
    @Test("takes every run in its order, and pages that lie apart together") func copies() throws {
        let length = 3000 * 4096
        let mapped = unsafe mmap(nil, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        let memory = unsafe mapped!
        defer { unsafe munmap(memory, length) }
        for number in 0..<3000 { unsafe memory.storeBytes(of: UInt32(number), toByteOffset: number * 4096, as: UInt32.self) }
        let start = UInt64(UInt(bitPattern: memory))
        unsafe munmap(memory + 1000 * 4096, 4096)
        func range(_ first: Int, _ count: Int) -> Range<UInt64> { (start + UInt64(first) * 4096)..<(start + UInt64(first + count) * 4096) }
        let present = PageRuns.present, parent = PageRuns.parent
        var runs = (0..<700).flatMap { [PageRuns.Run(range: range(2 * $0, 1), flags: present, readable: true), .init(range: range(2 * $0 + 1, 1), flags: parent, readable: true)] }
        runs.append(.init(range: range(1400, 1600), flags: present | PageRuns.lazy, readable: true))
        var copier = PageCopier(of: ThreadID(getpid()), PageBuffer())
        copier.blanks = [range(1500, 1)]
        let taken = Taken()
        try copier.copy(runs, gone: { taken.gone.append($0) }) { some, content in
            #expect(some.reduce(0) { $0 + ($1.hasContent ? $1.range.count : 0) } == content.count)
            taken.runs += some
            taken.bytes += content.bytes(0..<content.count)
        }
        #expect(taken.gone == [range(1000, 1)])
        let pages = runs.filter(\.hasContent).flatMap { Array(stride(from: $0.range.lowerBound, to: $0.range.upperBound, by: 4096)) }.filter { $0 != range(1000, 1).lowerBound }
        #expect(taken.runs.filter(\.hasContent).flatMap { Array(stride(from: $0.range.lowerBound, to: $0.range.upperBound, by: 4096)) } == pages)
        #expect(taken.runs.filter { !$0.hasContent }.map(\.range) == runs.filter { !$0.hasContent }.map(\.range))
        #expect(taken.runs.map(\.range.lowerBound) == taken.runs.map(\.range.lowerBound).sorted())
        for (index, page) in pages.enumerated() {
            let number = UInt32((page - start) / 4096)
            #expect(taken.bytes.word(UInt32.self, at: index * 4096) == (number == 1500 ? 0 : number))
        }
    }
}

@Suite("dedup") struct DedupTests {
    @Test("what both lists have") func common() {
        #expect(MemoryTracker.common([0..<10, 20..<30], [5..<22, 25..<40]) == [5..<10, 20..<22, 25..<30])
        #expect(MemoryTracker.common([], [1..<2]) == [] && MemoryTracker.common([1..<2], [2..<3]) == [])
    }
}
