import Foundation
import ImageMessages
import Images
import SwiftProtobuf
import Testing

@Suite("image sets") struct ImageSetTests {
    @Test("what CRIU dumped has no problems", arguments: Golden.all)
    func goldenIsSound(golden: Golden) throws {
        let set = try ImageSet(try golden.directory)
        #expect(set.problems() == [])
    }

    @Test("pages of an incremental dump are found in its parent")
    func chain() throws {
        let whole = try PageChain(try Golden("simple/images", "").directory)
        let chain = try PageChain(try Golden.incremental.directory)
        #expect(chain.directories.count == 2)
        func content(_ chain: PageChain) throws -> [UInt64: [UInt8]] {
            var pages: [UInt64: [UInt8]] = [:]
            for extent in try chain.extents(of: .pagemap, 28540) {
                guard case .file(let level, let name, let offset) = extent.source else { continue }
                for page in 0..<extent.pages {
                    let start = offset + page * 4096
                    pages[extent.address + page * 4096] = try chain.directories[level].read(ImagePayload(file: name, range: start..<start + 4096))
                }
            }
            return pages
        }
        let expected = try content(whole)
        #expect(expected.count > 10)
        #expect(try content(chain) == expected)
        let levels = try chain.extents(of: .pagemap, 28540).map { if case .file(let level, _, _) = $0.source { level } else { -1 } }
        #expect(Set(levels) == [0, 1])
    }

    @Test("a chain that leads back to itself ends in an error")
    func circle() throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        try FileManager.default.createSymbolicLink(atPath: "\(scratch.path)/parent", withDestinationPath: ".")
        #expect(throws: ImageError.self) { try PageChain(scratch.directory) }
    }

    @Test("a missing image is named", arguments: ["inventory.img", "pstree.img", "core-28540.img", "ids-28540.img", "mm-28540.img", "fs-28540.img", "files.img", "pagemap-28540.img"])
    func missing(name: String) throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        try scratch.remove(name)
        let error = #expect(throws: ImageError.self) { try ImageSet(scratch.directory) }
        #expect(error?.file == name && error?.isMissing == true)
    }

    @Test("images that may be absent may be absent", arguments: ["fdinfo-2.img", "seccomp.img", "timens-0.img", "stats-dump"])
    func absent(name: String) throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        try scratch.remove(name)
        #expect(try ImageSet(scratch.directory).problems() == [])
    }

    @Test("a descriptor table that Stasis wrote may not be absent")
    func absentFromOurs() throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        try scratch.edit(.inventory) { $0.stasis.version = "1" }
        try scratch.remove("fdinfo-2.img")
        let error = #expect(throws: ImageError.self) { try ImageSet(scratch.directory) }
        #expect(error?.file == "fdinfo-2.img")
    }

    @Test("a pages file cut short is an error that names it")
    func shortPages() throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        let bytes = try scratch.directory.contents(of: "pages-1.img")
        try scratch.write("pages-1.img", Array(bytes.dropLast(1)))
        #expect(try ImageSet(scratch.directory).problems().map(\.file) == ["pages-1.img"])
    }

    @Test("images of version 1 have no common magic")
    func version1() throws {
        let scratch = try Scratch(Golden("simple/images", ""))
        for (name, kind) in try Golden("simple/images", "").messageImages where kind.magic.bytes.count == 8 {
            try scratch.write(name, Array(try scratch.directory.contents(of: name).dropFirst(4)))
        }
        try scratch.edit(.inventory) { $0.imgVersion = 1 }
        #expect(try ImageSet(scratch.directory).problems() == [])
    }

    @Test("every contradiction names file and field", arguments: Contradiction.all)
    func contradiction(_ contradiction: Contradiction) throws {
        let scratch = try Scratch(Golden("\(contradiction.fixture)/images", ""))
        try contradiction.edit(scratch)
        var found: [ImageError] = []
        do { found = try ImageSet(scratch.directory).problems() } catch { found = [error] }
        #expect(found.contains { $0.file == contradiction.file && $0.field == contradiction.field }, "found \(found)")
    }
}

extension Scratch {
    /// Changes the first entry of an image.
    func edit<Entry>(_ file: ImageFile<Entry>, _ number: UInt64 = 0, _ change: (inout Entry) -> Void) throws {
        try editAll(file, number) { change(&$0[0]) }
    }

    func editAll<Entry>(_ file: ImageFile<Entry>, _ number: UInt64 = 0, _ change: (inout [Entry]) -> Void) throws {
        var entries = try directory.all(file, number)
        change(&entries)
        try directory.write(file, number, entries)
    }

    func editPagemap(_ pid: UInt64, _ change: (inout [PagemapEntry]) -> Void) throws {
        var reader = try directory.reader(.pagemap, pid)
        let head = try reader.single(PagemapHead.self)
        var entries = try reader.all(PagemapEntry.self)
        change(&entries)
        let writer = try ImageWriter(directory: directory.descriptor, name: "pagemap-\(pid).img")
        try writer.append(head)
        for entry in entries { try writer.append(entry) }
        try writer.finish(sync: false)
    }
}
