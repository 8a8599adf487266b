import ImageMessages
import Images
import Kinds
import Linux
import Testing

extension EndToEnd {
    /// What a restore under another kernel meets, made from images of this one.
    @Suite("another kernel's vDSO", .serialized) struct ForeignKernel {
        /// Makes the vDSO of every task in the images one whose functions are good for nothing but their first bytes.
        private func spoil(_ images: String) throws -> Int {
            let directory = try ImageDirectory(try FileDescriptor.open(images, 0o200000 /* O_DIRECTORY */))
            let chain = try PageChain(directory)
            var count = 0
            for pid in try directory.pstree().map(\.pid) {
                guard let entry = try directory.single(.mm, pid).vmas.first(where: { $0.status & 8 != 0 }) else { continue }
                let pages = try PageImage(chain, .pagemap, pid)
                let run = try #require(pages.runs(within: [entry.start..<entry.end]).first)
                let file = try FileDescriptor.open(images + "/" + pages.files[run.file].name, 2)
                let vdso = try #require(VDSO(try file.read(run.range.count, at: Int(run.offset))))
                for function in vdso.functions.values where function.size > 24 {
                    try file.write([UInt8](repeating: 0xcc, count: Int(function.size) - 24), at: Int(run.offset + function.offset) + 24)
                }
                count += 1
            }
            return count
        }

        @Test("goes on answering, through this kernel's, also after the next dump") func answers() throws {
            let run = try Run("vdso")
            run.reporting(again: "swift test --filter ForeignKernel", as: "vdso-foreign") { run in
                try run.start(["--detached", "vdso"])
                try run.awaitReady()
                try run.dumpAndKill()
                let spoilt = try spoil(run.images)
                #expect(spoilt == 2)
                try run.restore()
                try run.dumpAndKill()
                try run.restore()
                try run.checkItself()
            }
        }
    }
}
