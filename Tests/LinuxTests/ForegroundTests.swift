import Synchronization
import Testing

@testable import Linux

@Suite("the process that works") struct ForegroundTests {
    @Test("holds its locks under its own id, also when threads fight for them") func locks() throws {
        let count = Counter()
        count.add()  // whoever remembers our id does it now
        let work = Work {
            let workers = Workers()
            for _ in 0..<4 { workers.run { for _ in 0..<20_000 { count.add() } } }
            for _ in 0..<20_000 { count.add() }
            do { try workers.finish() } catch { return 2 }
            return 7
        }
        guard case .exited(7) = Foreground.perform(work) else { throw Failed() }
        #expect(count.value == 100_001)
    }
    private struct Failed: Error {}
    private final class Counter: Sendable {
        private let number = Mutex(0)
        var value: Int { number.withLock { $0 } }
        func add() { number.withLock { $0 += 1 } }
    }
}
