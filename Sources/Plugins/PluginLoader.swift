import Glibc
package import Kinds
import Linux

/// Finds the plugins: our own, and the shared objects in a directory.
package enum PluginLoader {
    /// Where CRIU looks when neither --libdir nor CRIU_LIBS_DIR names a directory.
    private static let usualDirectory = "/usr/lib/criu/"

    /// Every `*.so` in the directory, in alphabetical order, after ours. One that can't be loaded takes no part and is only warned of:
    /// whether it is missed, the tree or the images will tell.
    /// - Parameter directory: as the user has named it; nil for the usual one, which need not be there.
    /// - Parameter own: those written in Swift. A file of the same name is CRIU's edition of it, and left alone.
    package static func load(_ named: String?, own: [any Plugin], _ circumstances: PluginProcess.Circumstances) throws -> PluginSet {
        var plugins = own, broken = [PluginError]()
        let directory = named ?? usualDirectory
        let names: [String]
        do throws(SyscallError) { names = try Files.names(in: directory) } catch {
            if named == nil { return PluginSet(own) }
            throw CheckpointError("open", .object("plugin directory \(directory)"), "\(error)", remedy: "name the directory that has the plugins with --libdir (relative to the work directory)", errno: error.errno)
        }
        let files = names.filter { $0.hasSuffix(".so") }.sorted()
        for file in files {
            let name = String(file.dropLast(3))
            if own.contains(where: { $0.name == name }) {
                circumstances.log.debug("\(directory)/\(file) is not needed: stasis has a plugin of that name")
                continue
            }
            do {
                let plugin = try PluginProcess("\(directory)/\(file)", circumstances)
                if plugins.contains(where: { $0.name == plugin.name }) { throw PluginError(plugin.name, "is there twice: \(directory)/\(file) is left out") }
                plugins.append(plugin)
            } catch {
                let failure = error as? PluginError ?? PluginError(name, "could not be loaded: \(error)")
                broken.append(failure)
                // A restore that needs it says so itself.
                if case .these = circumstances.needed { circumstances.log.debug("\(failure)") } else { circumstances.log.warn("\(failure)") }
            }
        }
        return PluginSet(plugins, broken: broken)
    }
}
