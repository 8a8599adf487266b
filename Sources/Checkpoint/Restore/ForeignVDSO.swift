import ImageMessages
import Images
import Kinds
import Linux

/// The vDSO of a process that was dumped under another kernel: what goes where it was, and where this kernel's goes.
struct ForeignVDSO {
    /// Pages for the place where the program knows it.
    let content: [UInt8]
    /// Where this kernel's vvar begins, its vDSO behind it.
    let place: UInt64

    /// - Parameters:
    ///   - special: lengths of this kernel's mappings, and which is the vDSO.
    ///   - reserved: what the restore itself occupies.
    /// - Returns: nil where the image's vDSO is this kernel's, or the process had none.
    init?(_ plan: MemoryPlan, _ images: ProcessImages, special: [(length: UInt64, isCode: Bool)], reserved: Range<UInt64>) throws {
        guard let entry = plan.vdso else { return nil }
        let range = entry.start..<entry.end
        let vvar = special.reduce(0) { $1.isCode ? $0 : $0 + $1.length }
        let sameSize = plan.vvar.map(\.length) == vvar && entry.length == special.reduce(0) { $1.isCode ? $0 + $1.length : $0 }
        guard let saved = try images.pages.content(of: range) else {
            if sameSize { return nil }
            throw Self.refused(images.pid, range, "it is another kernel's, and its pages are not in the images", remedy: "restore under the kernel of the dump")
        }
        guard let own = VDSO.ofThisKernel else { throw Self.refused(images.pid, range, "this kernel has no vDSO", remedy: "restore under a kernel that was started without vdso=0") }
        if sameSize, saved == own.content { return nil }
        guard let foreign = VDSO(saved) else {
            throw Self.refused(images.pid, range, "it is not this kernel's, and what the images have of it is no library", remedy: "restore under the kernel of the dump")
        }
        for (thread, core) in [(images.pid, images.core)] + images.threads.map({ ($0.id, $0.core) }) {
            let ip = core.threadInfo.gpregs.ip
            if range.contains(ip), !foreign.isIndependent(at: ip - entry.start) {
                throw Self.refused(images.pid, range, "it is another kernel's, and thread \(thread) was stopped within it", remedy: "dump again, or restore under the kernel of the dump")
            }
        }
        let size = special.reduce(0) { $0 + $1.length }
        guard let place = plan.hole(of: size, near: entry.start, images.mm, reserved: reserved) else {
            throw Self.refused(images.pid, range, "its address space has no hole of \(size) bytes for this kernel's")
        }
        (content, self.place) = (try foreign.ledOn(from: entry.start, to: own, at: place + vvar), place)
    }

    private static func refused(_ pid: Int32, _ range: Range<UInt64>, _ cause: String, remedy: String? = nil) -> CheckpointError {
        CheckpointError("restore", .mapping(range, name: "vDSO", of: ThreadID(pid)), cause, remedy: remedy)
    }
}
