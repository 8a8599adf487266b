import Glibc
import Linux
import Synchronization
import Testing

@Suite("workers") struct WorkersTests {
    private struct Sorry: Error, Equatable { let number: Int }

    @Test("every job has run when they have finished, again and again", arguments: [0, 1, 3]) func all(threads: Int) throws {
        let workers = Workers(threads), done = Mutex(0)
        for round in 1...3 {
            for _ in 0..<500 { workers.run { done.withLock { $0 += 1 } } }
            try workers.finish()
            #expect(done.withLock { $0 } == 500 * round)
        }
        #expect(try Files.names(in: "/proc/self/task").count >= 1)
    }

    @Test("what a job throws comes out, once, and the others run all the same") func errors() throws {
        let workers = Workers(2), done = Mutex(0)
        for number in 0..<100 {
            workers.run {
                done.withLock { $0 += 1 }
                if number == 7 { throw Sorry(number: number) }
            }
        }
        #expect(throws: Sorry(number: 7)) { try workers.finish() }
        #expect(done.withLock { $0 } == 100)
        try workers.finish()
    }

    @Test("what is made of each element comes in their order, by several or one ahead of its use", arguments: [0, 1, 2, 100]) func order(count: Int) throws {
        let elements = Array(0..<count)
        let late = { @Sendable (number: Int) -> Int in
            if number % 3 == 0 { usleep(500) }
            return number * 2
        }
        #expect(Workers.map(elements, late) == elements.map { $0 * 2 })
        var used = [Int]()
        Workers.ahead(elements, late) { used.append($0) }
        #expect(used == elements.map { $0 * 2 })
        // What a use throws ends it.
        used = []
        do {
            try Workers.ahead(elements, late) { (value) throws in
                if value == 4 { throw Sorry(number: value) }
                used.append(value)
            }
        } catch let error as Sorry { #expect(error.number == 4 && count > 2) } catch { throw error }
        #expect(used == (count > 2 ? [0, 2] : elements.map { $0 * 2 }))
    }

    @Test("cancelled ones begin no more jobs") func cancelled() throws {
        let workers = Workers(1), done = Mutex(0)
        for _ in 0..<100 {
            workers.run {
                done.withLock { $0 += 1 }
                usleep(1000)
            }
        }
        workers.cancel()
        let ran = done.withLock { $0 }
        #expect(ran < 100)
        try workers.finish()
        #expect(done.withLock { $0 } == ran)
    }
}
