import CLinux
import Glibc
import Synchronization

/// A few threads of this process that run jobs beside the conductor: checksums, compression. They run on the CPUs that were the
/// conductor's when this was made, take no signals, and share neither working directory nor root with it (unshare(2), CLONE_FS). They are
/// there from the first job until `finish`: code that forks or changes namespaces is best run without them.
@safe public final class Workers: @unchecked Sendable {
    // All of it is changed under `lock`.
    private var jobs: [@Sendable () throws -> Void] = []
    private var next = 0, running = 0, isEnding = false
    private var threads: [pthread_t] = []
    private var error: (any Error)?
    private let most: Int
    private let cpus = try? Affinity.own()
    private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    /// A job has come, or the end.
    private let hasWork = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    /// A job is done.
    private let hasDone = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    /// As many threads as we have CPUs, up to four.
    public static var usual: Int { usual(try? Affinity.own()) }
    private static func usual(_ cpus: [UInt64]?) -> Int { min(cpus?.reduce(0) { $0 + $1.nonzeroBitCount } ?? 1, 4) }

    /// - Parameter count: at most so many threads; 0: `usual`.
    public init(_ count: Int = 0) {
        most = count > 0 ? count : Self.usual(cpus)
        unsafe pthread_mutex_init(lock, nil)
        unsafe pthread_cond_init(hasWork, nil)
        unsafe pthread_cond_init(hasDone, nil)
    }

    /// What `body` makes of each element, in their order; several at a time, one of them on this thread.
    public static func map<Element: Sendable, Value: Sendable>(_ elements: [Element], _ body: @escaping @Sendable (Element) -> Value) -> [Value] {
        let results = Results<Value>(), workers = Workers(max(1, min(elements.count, usual) - 1))
        for (index, element) in elements.enumerated() {
            workers.run {
                let value = body(element)
                results.values.withLock { $0[index] = value }
            }
        }
        try? workers.finish()  // no job throws
        return results.values.withLock { values in elements.indices.map { values[$0]! } }
    }

    /// Gives `use` what `body` makes of each element, in their order. While that is used the next one is made, on a thread of its own.
    public static func ahead<Element: Sendable, Value: Sendable>(
        _ elements: [Element], _ body: @escaping @Sendable (Element) -> Value, use: (Value) throws -> Void
    ) rethrows {
        let results = Results<Value>(), worker = Workers(1)
        func begin(_ index: Int) {
            guard elements.indices.contains(index) else { return }
            let element = elements[index]
            worker.run {
                let value = body(element)
                results.values.withLock { $0[index] = value }
            }
        }
        if let only = elements.first, elements.count == 1 { return try use(body(only)) }
        begin(0)
        defer { try? worker.finish() }
        for index in elements.indices {
            try? worker.finish()  // no job throws
            begin(index + 1)
            try use(results.values.withLock { $0.removeValue(forKey: index)! })
        }
    }
    private final class Results<Value: Sendable>: Sendable { let values = Mutex([Int: Value]()) }

    /// Runs a job at some time before `finish` returns: at once on a thread that is free, or in `finish` where none can be made.
    /// - Parameter limit: waits before while so many jobs are not done, so that what they hold does not pile up.
    public func run(limit: Int = .max, _ job: @escaping @Sendable () throws -> Void) {
        locked {
            while !threads.isEmpty, jobs.count - next + running >= limit { unsafe pthread_cond_wait(hasDone, lock) }
            jobs.append(job)
            if threads.count < most, threads.count < running + jobs.count - next { start() }
            unsafe pthread_cond_signal(hasWork)
        }
    }

    /// Waits until every job has run, and the threads are gone. Throws what the first job that failed has thrown.
    public func finish() throws {
        while let job = takeJob(waits: false) { perform(job) }
        let ended: [pthread_t] = locked {
            while running > 0 { unsafe pthread_cond_wait(hasDone, lock) }
            isEnding = true
            unsafe pthread_cond_broadcast(hasWork)
            defer { threads = [] }
            return threads
        }
        for thread in ended { pthread_join(thread, nil) }
        let failure: (any Error)? = locked {
            isEnding = false
            (jobs, next) = ([], 0)
            defer { error = nil }
            return error
        }
        if let failure { throw failure }
    }

    /// Forgets jobs that have not begun, and waits for those that have.
    public func cancel() {
        locked { (jobs, next) = ([], 0) }
        try? finish()
    }

    deinit {
        // Threads hold a reference: without `finish` they keep this alive. Here none is left.
        unsafe pthread_mutex_destroy(lock)
        unsafe pthread_cond_destroy(hasWork)
        unsafe pthread_cond_destroy(hasDone)
        unsafe lock.deallocate()
        unsafe hasWork.deallocate()
        unsafe hasDone.deallocate()
    }

    private func locked<Value>(_ body: () -> Value) -> Value {
        unsafe pthread_mutex_lock(lock)
        defer { unsafe pthread_mutex_unlock(lock) }
        return body()
    }

    private func start() {
        var thread = pthread_t()
        let result = unsafe pthread_create(&thread, nil, { context in
            var all = sigset_t()
            unsafe sigfillset(&all)
            unsafe pthread_sigmask(SIG_BLOCK, &all, nil)
            _ = unsafe Syscall.raw(SYS_unshare, 0x200)
            let workers = unsafe Unmanaged<Workers>.fromOpaque(context!).takeRetainedValue()
            if let cpus = workers.cpus { try? Affinity.set(cpus) }
            workers.work()
            return nil
        }, Unmanaged.passRetained(self).toOpaque())
        if result == 0 { threads.append(thread) } else { unsafe Unmanaged.passUnretained(self).release() }
    }

    private func work() { while let job = takeJob(waits: true) { perform(job) } }

    private func takeJob(waits: Bool) -> (@Sendable () throws -> Void)? {
        locked {
            while waits, next == jobs.count, !isEnding { unsafe pthread_cond_wait(hasWork, lock) }
            if next == jobs.count { return nil }
            let job = jobs[next]
            jobs[next] = {}
            next += 1
            running += 1
            if next == jobs.count { (jobs, next) = ([], 0) }
            return job
        }
    }

    private func perform(_ job: @Sendable () throws -> Void) {
        let failure: (any Error)?
        do {
            try job()
            failure = nil
        } catch { failure = error }
        locked {
            if let failure, error == nil { error = failure }
            running -= 1
            unsafe pthread_cond_signal(hasDone)
        }
    }
}
