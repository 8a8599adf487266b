package import ImageMessages
import Kinds

/// Which plugins a restore needs: `plugins_entry` of the inventory. Absent: the images are older than the field, any plugin may have been
/// used. Present: exactly those it lists were used; none, and none is needed, whatever a directory of plugins holds.
package enum Plugins {
    package enum Wanted: Equatable, Sendable { case any, these([String]) }

    package static func wanted(by inventory: InventoryEntry) -> Wanted { inventory.hasPluginsEntry ? .these(inventory.pluginsEntry.plugins) : .any }

    /// - Parameter present: those that are loaded.
    static func check(_ inventory: InventoryEntry, present: Set<String> = []) throws(CheckpointError) {
        guard case .these(let names) = wanted(by: inventory) else { return }
        let missing = names.filter { !present.contains($0) }
        if missing.isEmpty { return }
        throw CheckpointError(
            "restore", .image("inventory.img"), "the dump used the plugin\(missing.count == 1 ? "" : "s") \(missing.joined(separator: ", ")), which \(missing.count == 1 ? "is" : "are") not here",
            remedy: "plugins are not supported yet: restore with the program that dumped")
    }
}
