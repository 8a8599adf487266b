import Linux

/// One message between source and destination, in the order of docs/design/migration.md: u32 length of what follows, u8 kind, then fields,
/// each a u32 length and its bytes; all little-endian. A field that a later version adds is not looked at by this one.
package struct ControlMessage: Equatable, Sendable {
    package enum Kind: UInt8, Sendable, CaseIterable {
        /// Fields: `magic`, version, intent, id of the migration.
        case hello = 1
        case welcome
        /// What went wrong: action, subject, cause, remedy. The end of the conversation.
        case refused
        /// "key=value", one a field: what the restore needs to know of the dump.
        case terms
        /// Name and size in bytes of an image, whose content follows the message.
        case file
        /// The files so far are for a check.
        case check
        /// Seven fields a verdict.
        case verdicts
        /// Name of a directory whose pages come next, by the page protocol; name of the one before.
        case round
        case proceed
        /// The files so far, with the pages of the last round, are a whole dump; with "post-copy" they lack pages, which are asked for.
        case restore
        /// Restored; waits.
        case ready
        case go
        /// Time of the restore, µs, and what the destination has to say.
        case running
        /// The source's tree is no more.
        case done
        /// What became of the migration: a `Decision.Answer`.
        case outcome
        /// A task, and which pages of it; they follow the answer.
        case want
        case content
        /// Nothing more is wanted.
        case complete
    }
    package static let magic = "stasis migration", version = 1
    /// Of a message; images are not part of one.
    package static let limit = 16 << 20

    package var kind: Kind
    package var fields: [[UInt8]]

    package init(_ kind: Kind, _ texts: [String] = []) { (self.kind, fields) = (kind, texts.map { Array($0.utf8) }) }

    package func text(_ index: Int) -> String { index < fields.count ? String(decoding: fields[index], as: UTF8.self) : "" }
    package var texts: [String] { fields.indices.map(text) }

    package var bytes: [UInt8] {
        var body = [kind.rawValue]
        for field in fields { body.append(sized: field) }
        return little32(UInt32(body.count)) + body
    }

    /// What follows the length word; nil for what is no message.
    package init?(body: [UInt8]) {
        guard let first = body.first, let kind = Kind(rawValue: first) else { return nil }
        var fields = [[UInt8]](), at = 1
        while at < body.count {
            guard let field = body.sized(at: &at) else { return nil }
            fields.append(field)
        }
        (self.kind, self.fields) = (kind, fields)
    }
}
