import Cryptography
import Images
import Kinds
import Options

extension Options {
    /// What --decrypt names. Files are looked for from where we were called.
    func imageSecrets() throws -> ImageSecrets {
        // A configuration file may name some for other commands.
        guard OptionTable.row(named: "decrypt")?.commands.contains(CommandSet(command)) == true else { return .none }
        return ImageSecrets(try decryptionKeys.map { path in try CheckpointError.about("decrypt", .object("images")) { try Secret(file: path) } })
    }

    /// What --encrypt names.
    func imageRecipients() throws -> ImageRecipients {
        guard [.dump, .preDump, .pageServer].contains(command) else { return .nobody }
        return ImageRecipients(try encryptionRecipients.map { path in try CheckpointError.about("encrypt", .object("the images")) { try Recipient(file: path) } })
    }
}
