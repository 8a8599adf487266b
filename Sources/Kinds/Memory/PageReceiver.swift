package import Images
package import ImageMessages
package import Linux

/// Whose pages: a process's private memory, or a shared segment's.
package enum PageSubject: Hashable, Sendable {
    case task(UInt32), segment(UInt64)
    package var number: UInt64 {
        switch self {
        case .task(let pid): UInt64(pid)
        case .segment(let id): id
        }
    }
    package var file: ImageFile<PagemapEntry> { if case .task = self { .pagemap } else { .sharedPagemap } }
}

/// Takes the pages of a dump in place of the image directory: a page server.
package protocol PageReceiver: AnyObject {
    /// Whether the receiver has pages of a subject from the dump before.
    func hasParent(_ subject: PageSubject) throws -> Bool
    /// Begins the pages of a subject. Answers whether the receiver has pages of it from the dump before.
    func open(_ subject: PageSubject) throws -> Bool
    /// The next pages, ascending: those that have content one behind the other in the buffer. May be sent later, together with others.
    func put(_ runs: [PageRuns.Run], _ content: PageBuffer) throws
}
