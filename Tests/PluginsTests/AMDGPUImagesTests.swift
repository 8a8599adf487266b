import Foundation
import ImageMessages
import Linux
import Testing

@testable import Plugins

@Suite("images of AMD GPUs") final class AMDGPUImagesTests {
    private let path = NSTemporaryDirectory() + "stasis-gpu-images-\(UUID().uuidString.prefix(8))"
    private let images: AMDGPUImages

    init() throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        images = AMDGPUImages(directory: try FileDescriptor.open(path, 0))
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    private static func process(_ change: (inout CriuKfd) -> Void = { _ in }) -> CriuKfd {
        var gpu = GPUTopology.node(1, gpuID: "4369", GPUTopologyTests.properties(minor: 128), banks: [GPUTopologyTests.bank], links: [])
        gpu.nodeID = 1
        var buffer = KfdBoEntry()
        (buffer.addr, buffer.size, buffer.offset, buffer.allocFlags, buffer.gpuID) = (0x7f00_0000_0000, 8192, 1 << 32, 1, 4369)
        var image = CriuKfd()
        (image.pid, image.numOfGpus, image.numOfCpus, image.numOfBos, image.numOfObjects) = (7, 1, 0, 1, 0)
        (image.deviceEntries, image.boEntries, image.sharedMemSize, image.sharedMemMagic, image.privData) = ([gpu], [buffer], 0, 0, Data([1, 2, 3]))
        change(&image)
        return image
    }

    @Test("a message is its length, then itself, under CRIU's names") func roundTrip() throws {
        let image = Self.process()
        try images.write(image, AMDGPUImages.Name.process(3))
        #expect(try images.process(3) == image && images.ids("amdgpu-kfd-") == [3])
        let bytes = try Files.read(path + "/amdgpu-kfd-3.img")
        #expect(bytes.word(UInt64.self, at: 0) == UInt64(bytes.count - 8))
        #expect(AMDGPUImages.Name.contents(3, 0x1b) == "amdgpu-pages-3-001b.img" && AMDGPUImages.Name.renderNode(4) == "amdgpu-renderD-4.img")
    }

    @Test("what can't be right is refused, by name") func lies() throws {
        let lies: [(String, (inout CriuKfd) -> Void)] = [
            ("its buffer at 0x7f0000000000 has 18446744073709551615 bytes", { $0.boEntries[0].size = .max }),
            ("its buffer at 0x7f0000000000 is of no GPU in it", { $0.boEntries[0].gpuID = 5 }),
            ("its 2 GPUs are none, too many, or one twice", { $0.deviceEntries.append($0.deviceEntries[0]) }),
            ("its 0 GPUs are none, too many, or one twice", { $0.deviceEntries = [] }),
        ]
        for (words, lie) in lies {
            try images.write(Self.process(lie), AMDGPUImages.Name.process(3))
            let error = #expect(throws: AMDGPUImages.Damage.self) { try self.images.process(3) }
            #expect(error?.description == "the image amdgpu-kfd-3.img is damaged: \(words)")
        }
    }

    @Test("an image that is cut short, or no message, is refused") func cut() throws {
        try images.write(Self.process(), AMDGPUImages.Name.process(3))
        let whole = try Files.read(path + "/amdgpu-kfd-3.img")
        for count in [0, 7, 8, whole.count - 1] {
            try Data(whole[..<count]).write(to: URL(fileURLWithPath: path + "/amdgpu-kfd-3.img"))
            #expect(throws: AMDGPUImages.Damage.self) { try self.images.process(3) }
        }
        try Data(little64(1 << 62) + whole[8...]).write(to: URL(fileURLWithPath: path + "/amdgpu-kfd-3.img"))
        #expect(throws: AMDGPUImages.Damage.self) { try self.images.process(3) }
        try Data(little64(3) + [0xff, 0xff, 0xff]).write(to: URL(fileURLWithPath: path + "/amdgpu-kfd-3.img"))
        #expect(throws: AMDGPUImages.Damage.self) { try self.images.process(3) }
        let file = try images.create("amdgpu-pages-3-1111.img", 4096)
        try file.write([UInt8](repeating: 7, count: 4000))
        #expect(throws: AMDGPUImages.Damage.self) { try self.images.contents(3, 0x1111, 4096) }
    }
}
