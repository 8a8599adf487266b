import Checkpoint
import ImageMessages
import Images
import Kinds
import Linux
import Options
import TCPRepair

/// `stasis network-unlock [-D DIR | NAME]`: lifts the network lock that the dump in DIR left for its restore, for a tree that will not be restored
/// here, or the one of that name. Without images in DIR: lifts the locks of dumps that were killed, and names the others. Locks lie in the network
/// namespace of their tree, so all that there are on this machine are looked at.
enum NetworkUnlockCommand {
    static func run(_ options: Options) -> Int32 {
        let log = Log(level: Log.Level(verbosity: options.verbosity))
        do {
            try Privileges.check(options)
            let namespaces: [FileDescriptor?] = [nil] + (try NetworkNamespace.others())
            func everywhere<Value>(_ body: () throws(SyscallError) -> [Value]) throws(SyscallError) -> [Value] {
                var all = [Value]()
                for namespace in namespaces { all += try NetworkNamespace.inside(namespace, body) }
                return all
            }
            func lift(_ name: String) throws(SyscallError) -> Bool {
                try everywhere { () throws(SyscallError) in try ConnectionLock.lift(name) ? [name] : [] }.isEmpty == false
            }
            var lifted = try everywhere(ConnectionLock.liftStale)
            if let name = options.lockName {
                guard try everywhere(ConnectionLock.all).contains(name), try lift(name) else {
                    throw CheckpointError("lift", .object("network lock \(name)"), "there is none of that name", remedy: "stasis network-unlock names those that are held")
                }
                Output.line("\(name) lifted")
                return 0
            }
            let images = try ImageDirectory(path: options.imagesDirectory, try options.imageSecrets())
            if images.exists("inventory.img") {
                let name = PacketLock.name(try images.inventory().dumpCriuRunID)
                if try lift(name) { lifted.append(name) } else { log.warn("\(options.imagesDirectory): nothing is locked for these images") }
            } else {
                for name in try everywhere(ConnectionLock.all) { Output.line("\(name) is held for a restore; to lift it name it, or its images with -D") }
            }
            for name in lifted { Output.line("\(name) lifted") }
            return 0
        } catch {
            return Failure(error).report(json: options.json, command: options.command, log: log)
        }
    }
}
