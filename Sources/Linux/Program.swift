import CLinux
import Glibc

/// Starting another program and waiting for it.
public enum Program {
    /// How a program ended (wait(2)).
    public enum End: Equatable, Sendable, CustomStringConvertible {
        case exited(Int32), killed(signal: Int32)

        public init(waitStatus: Int32) {
            let signal = waitStatus & 0x7f
            self = signal == 0 ? .exited((waitStatus >> 8) & 0xff) : .killed(signal: signal)
        }

        public var description: String {
            switch self {
            case .exited(let status): "exit status \(status)"
            case .killed(let signal): "killed by signal \(signal)"
            }
        }
    }

    /// Starts `name`, looked for in PATH if it has no slash (posix_spawnp(3)), with an empty signal mask and default SIGPIPE.
    /// - Parameter environment: "NAME=value" strings added to ours; a later one replaces an earlier one of that name.
    /// - Parameter output: its standard output and error; nil for ours.
    /// - Parameter keepsErrors: its standard error is ours all the same.
    /// - Parameter inNewSession: whether it leads a session of its own, with /dev/null as standard input.
    /// - Parameter input: its standard input; nil for ours.
    public static func start(
        _ name: String, _ arguments: [String] = [], adding environment: [String] = [], output: FileDescriptor? = nil, inNewSession: Bool = false,
        input: FileDescriptor? = nil, keepsErrors: Bool = false
    ) throws(SyscallError) -> ThreadID {
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        var none = sigset_t(), defaults = sigset_t()
        unsafe sigemptyset(&none)
        unsafe sigemptyset(&defaults)
        unsafe sigaddset(&defaults, SIGPIPE)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setsigdefault(&attributes, &defaults)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | (inNewSession ? 0x80 : 0)))  // POSIX_SPAWN_SETSID
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        if let input { unsafe posix_spawn_file_actions_adddup2(&actions, input.number, STDIN_FILENO) } else if inNewSession { unsafe posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0) }
        if let output {
            for standard in keepsErrors ? [STDOUT_FILENO] : [STDOUT_FILENO, STDERR_FILENO] { unsafe posix_spawn_file_actions_adddup2(&actions, output.number, standard) }
        }

        let words = unsafe ([name] + arguments).map { unsafe strdup($0) } + [nil]
        let variables = unsafe merged(Environment.strings, environment).map { unsafe strdup($0) } + [nil]
        defer {
            for unsafe word in unsafe words { unsafe free(word) }
            for unsafe variable in unsafe variables { unsafe free(variable) }
        }
        var pid: pid_t = 0
        let code = unsafe posix_spawnp(&pid, name, &actions, &attributes, words, variables)
        guard code == 0 else { throw SyscallError("execve", .path(name), code) }
        return ThreadID(pid)
    }

    /// Goes to the background: this process goes on as a child that leads a session of its own; the one that was called ends with 0 after
    /// `told` was run in it. Descriptors that whoever called us left open are closed: he may wait for their end. Only for a process with one thread and nothing traced.
    /// - Parameter told: gets the pid of the one in the background.
    public static func goToBackground(told: (ThreadID) -> Void) throws(SyscallError) {
        let pid = clinux_fork()
        if pid < 0 { throw SyscallError("fork", nil, -pid) }
        if pid > 0 {
            told(ThreadID(pid))
            exit(0)
        }
        setsid()
        let nowhere = try FileDescriptor.open("/dev/null", O_RDWR)
        for standard in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] { dup2(nowhere.number, standard) }
        // Ours are all close-on-exec.
        for number in try Files.names(in: "/proc/self/fd").compactMap({ Int32($0) }) where number > STDERR_FILENO {
            if fcntl(number, F_GETFD) == 0 { close(number) }
        }
    }

    /// For a helper that outlives who started it: it is called `name`, stands in no directory, and holds nothing but its standard descriptors.
    /// What whoever called stasis left open is not for it: he may wait for the end of that.
    public static func standAlone(as name: String) {
        _ = unsafe Syscall.raw(SYS_close_range, 3, Int(UInt32.max))
        _ = unsafe chdir("/")
        var name = Array(name.utf8) + [0]
        _ = try? Syscall.call("prctl(PR_SET_NAME)", SYS_prctl, bytes: &name, at: 1, 15)
    }

    public static func wait(for program: ThreadID) throws(SyscallError) -> End {
        var status: Int32 = 0
        while true {
            let ended = unsafe waitpid(program.rawValue, &status, 0)
            if ended == program.rawValue { return End(waitStatus: status) }
            let code = Glibc.errno
            if code != EINTR { throw SyscallError("waitpid", .task(program), code) }
        }
    }

    /// The file that `name` stands for, as execvp(3) looks for it; nil when there is none that may be executed.
    public static func find(_ name: String) -> String? {
        if name.contains("/") { return unsafe access(name, X_OK) == 0 ? name : nil }
        let path = Environment["PATH"] ?? "/bin:/usr/bin"
        return path.split(separator: ":").lazy.map { "\($0)/\(name)" }.first { unsafe access($0, X_OK) == 0 }
    }

    /// Runs a program to its end. Answers how it ended and what it printed, errors included; nil when it was killed after `seconds`.
    /// - Parameter input: its standard input; nil for ours.
    public static func output(of name: String, _ arguments: [String] = [], within seconds: UInt64, input: FileDescriptor? = nil) throws(SyscallError) -> (End, [UInt8])? {
        let reading: FileDescriptor, program: ThreadID
        do {
            let pipe = try FileDescriptor.pipe()
            (reading, program) = (pipe.reading, try start(name, arguments, output: pipe.writing, input: input))
        }
        let alive = try FileDescriptor.process(program)
        let deadline = Clock.monotonic() + seconds * 1_000_000_000
        var printed = [UInt8](), isOpen = true
        while true {
            let left = Clock.monotonic() < deadline ? (deadline - Clock.monotonic()) / 1_000_000 + 1 : 0
            let waiting = isOpen ? [(alive, events: Poll.readable), (reading, events: Poll.readable)] : [(alive, events: Poll.readable)]
            let ready = try Poll.wait(for: waiting, milliseconds: Int(left))
            if ready.allSatisfy({ $0 == 0 }) {
                _ = kill(program.rawValue, SIGKILL)
                _ = try wait(for: program)
                return nil
            }
            if isOpen, ready[1] != 0 {
                let piece = try reading.read(4096)
                printed += piece
                if piece.isEmpty { isOpen = false }
            } else if ready[0] != 0 {
                // What it leaves running may hold the pipe open; it is not waited for.
                return (try wait(for: program), printed)
            }
        }
    }

    /// Becomes `name` (execvp(3)); returns only with the error.
    public static func become(_ name: String, _ arguments: [String] = []) -> SyscallError {
        let words = unsafe ([name] + arguments).map { unsafe strdup($0) } + [nil]
        unsafe execvp(name, words)
        let code = Glibc.errno
        for unsafe word in unsafe words { unsafe free(word) }
        return SyscallError("execve", .path(name), code)
    }

    private static func merged(_ ours: [String], _ added: [String]) -> [String] {
        let names = added.map { $0.prefix { $0 != "=" } + "=" }
        return ours.filter { variable in !names.contains { variable.hasPrefix($0) } } + added
    }
}

/// This process's environment, environ(7).
public enum Environment {
    /// "NAME=value" strings.
    public static var strings: [String] {
        var strings: [String] = []
        guard let first = unsafe clinux_environment() else { return [] }
        var index = 0
        while let text = unsafe first[index] {
            unsafe strings.append(String(cString: text))
            index += 1
        }
        return strings
    }

    /// The value of a variable (getenv(3)).
    public static subscript(name: String) -> String? { unsafe getenv(name).map { unsafe String(cString: $0) } }
}
