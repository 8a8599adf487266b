import Checkpoint
import ImageMessages
import Images
import Kinds
import Linux
import Options
import TCPRepair

/// `stasis network-unlock [-D DIR | NAME]`: lifts the network lock that the dump in DIR left for its restore, for a tree that will not be restored
/// here, or the one of that name. Without images in DIR: lifts the locks of dumps that were killed, and names the others.
enum NetworkUnlockCommand {
    static func run(_ options: Options) -> Int32 {
        let log = Log(level: Log.Level(verbosity: options.verbosity))
        do {
            try Privileges.check(options)
            var lifted = try ConnectionLock.liftStale()
            if let name = options.lockName {
                guard try ConnectionLock.all().contains(name), try ConnectionLock.lift(name) else {
                    throw CheckpointError("lift", .object("network lock \(name)"), "there is none of that name", remedy: "stasis network-unlock names those that are held, in the network namespace where it runs")
                }
                Output.line("\(name) lifted")
                return 0
            }
            let images = try ImageDirectory(path: options.imagesDirectory, try options.imageSecrets())
            if images.exists("inventory.img") {
                let name = NetworkLockName.of(try images.inventory().dumpCriuRunID)
                if try ConnectionLock.lift(name) { lifted.append(name) } else { log.warn("\(options.imagesDirectory): nothing is locked for these images") }
            } else {
                for name in try ConnectionLock.all() { Output.line("\(name) is held for a restore; to lift it name it, or its images with -D") }
            }
            for name in lifted { Output.line("\(name) lifted") }
            return 0
        } catch {
            return Failure(error).report(json: options.json, command: options.command, log: log)
        }
    }
}

/// What a dump leaves locked that was killed by SIGKILL between its last two steps. Every command looks.
enum StaleLocks {
    static func lift(_ log: Log) {
        guard let lifted = try? ConnectionLock.liftStale() else { return }
        for name in lifted { log.warn("network lock \(name) lifted: its dump was killed, and the tree lives") }
    }
}
