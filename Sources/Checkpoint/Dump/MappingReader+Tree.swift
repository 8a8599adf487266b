import Linux

extension MappingReader {
    /// For a task and its descendants, as far as it takes to know that they are large. Children of other threads than the first are not looked for.
    convenience init(tree root: ThreadID) {
        var resident: UInt64 = 0, found = [root], at = 0
        while at < found.count, resident < Self.least {
            resident += (try? TaskStat.of(found[at]).resident) ?? 0
            found += Proc.children(of: found[at], threads: [found[at]])
            at += 1
        }
        self.init(resident: resident)
    }
}
