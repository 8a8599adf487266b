import Glibc
import Linux
import Options
import Pages
import Plugins

/// `stasis`: reads the command line and hands it to a command. Exit status 0 when done, 1 when not (criu(8)).
@main
struct Main {
    static func main() {
        signal(SIGPIPE, SIG_IGN)  // a reader of our log that goes away must not end a dump half-way
        exit(run(Array(CommandLine.arguments.dropFirst())))
    }

    private static func run(_ arguments: [String]) -> Int32 {
        let invocation: Invocation
        do throws(OptionError) {
            invocation = try Invocation(arguments: arguments, environment: { Environment[$0] }, readFile: readConfiguration)
        } catch {
            return Failure(error).report(json: arguments.contains("--json"), command: nil, log: Log())
        }
        switch invocation {
        case .version: return VersionCommand.run()
        case .help: return HelpCommand.run()
        case .run(let options): return run(options)
        }
    }

    private static func run(_ options: Options) -> Int32 {
        DescriptorLimit.raise()
        DescriptorLimit.makeRoom(for: 4000)
        for descriptor in options.closedDescriptors { close(descriptor) }
        switch options.command {
        case .dump: Foreground.run { DumpCommand.run(options) }
        case .preDump: Foreground.run { PreDumpCommand.run(options) }
        case .dedup: return DedupCommand.run(options)
        case .keepTrackers: return KeepTrackersCommand.run()
        case .loadPages: return BackgroundLoad.run()
        case .verify: return VerifyCommand.run(options)
        case .pluginHost: return PluginProcess.serve()
        case .restore: return RestoreCommand.run(options)
        case .check: return CheckCommand.run(options)
        case .networkUnlock: return NetworkUnlockCommand.run(options)
        case .demo: return DemoCommand.run()
        case .count: return CountCommand.run()
        case .explain: return ExplainCommand.run(options)
        case .cpuinfoDump, .cpuinfoCheck: return CpuinfoCommand.run(options)
        case .help: return HelpCommand.run(options)
        case .lazyPages: return LazyPagesCommand.run(options)
        case .pageServer: return PageServerCommand.run(options)
        case .migrate: Foreground.run { MigrateCommand.run(options) }
        case .receive: return ReceiveCommand.run(options)
        case .service, .swrk, .exec, .show:
            return Failure(OptionError.notYet(options.command.rawValue, options.command.summary))
                .report(json: options.json, command: options.command, log: Log())
        }
    }

    private static func readConfiguration(_ path: String) throws(OptionError) -> String? {
        do throws(SyscallError) {
            return String(decoding: try FileDescriptor.open(path, O_RDONLY).readAll(), as: UTF8.self)
        } catch {
            // Another user's HOME (sudo, setpriv) is as good as none.
            if [ENOENT, ENOTDIR, EACCES].contains(error.errno.rawValue) { return nil }
            throw .usage("configuration file: \(error)")
        }
    }
}
