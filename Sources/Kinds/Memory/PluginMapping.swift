import CLinux
import Glibc
import Graft
package import ImageMessages
import Linux

/// Mappings of device files for whose content a plugin answers (MappingStatus.plugin): the images have their places, no pages.
package enum PluginMapping {
    /// Asks the plugins, if it is a mapping of a character device.
    static func claims(_ mapping: Mapping, of process: ThreadID, _ context: DumpContext) throws -> Bool {
        guard context.plugins.has(.claimMapping), mapping.name.hasPrefix("/dev/") else { return false }
        let link = mapping.mapFile(of: process)
        guard let status = try? Files.status(link), status.type == S_IFCHR else { return false }
        return try context.plugins.claims(mappingOf: try FileDescriptor.open(link, Int32(bitPattern: OpenFlags.path)))
    }

    /// Maps them where they were, in place of what kept their addresses free. The plugin may lead them to another file or place in it.
    package static func map(_ mappings: [VmaEntry], in task: any RestoredTask, _ context: RestoreContext) throws {
        for mapping in mappings where mapping.statusBits.contains(.plugin) {
            guard let file = UInt32(exactly: mapping.shmid).flatMap({ context.files[$0] }), file.hasReg else {
                throw CheckpointError("restore", .image("mm-\(task.pid).img"), "files.img has no device with id \(mapping.shmid)")
            }
            try CheckpointError.about("restore", .mapping(mapping.start..<mapping.end, name: file.reg.name, of: task.pid)) {
                let update = try context.plugins.update(mappingOf: file.reg.name, address: mapping.start, offset: mapping.pgoff, of: task.pid)
                let mode = mapping.hasFdflags ? mapping.fdflags & 3 : mapping.prot & 2 != 0 && mapping.flags & 1 != 0 ? 2 : 0
                let device = try update?.file ?? PathFiles.open(file.reg, flags: mode, context)
                let number = try task.receive([device])[0]
                var batch = task.grafted.batch()
                let flags = mapping.flags & 3 | 0x10  // MAP_SHARED or MAP_PRIVATE, MAP_FIXED
                batch.call("mmap", SYS_mmap, .init(mapping.start), .init(mapping.length), .init(mapping.prot), .init(flags), .init(number), .init(update?.offset ?? mapping.pgoff))
                batch.call("close", SYS_close, .init(number))
                for advice in [10, 16] as [UInt64] where mapping.hasMadv && mapping.madv & 1 << advice != 0 {  // MADV_DONTFORK, MADV_DONTDUMP
                    batch.call("madvise", SYS_madvise, .init(mapping.start), .init(mapping.length), .init(advice))
                }
                try task.grafted.run(&batch)
            }
        }
    }
}
