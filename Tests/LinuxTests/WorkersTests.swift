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
