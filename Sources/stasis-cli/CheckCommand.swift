import Checkpoint
import Kinds
import Linux
import Options

/// `stasis check`: what the running kernel offers, in CRIU's grades and words.
enum CheckCommand {
    static func run(_ options: Options) -> Int32 {
        let log = Log(level: Log.Level(verbosity: options.verbosity))
        do throws(OptionError) {
            try Privileges.check(options)
            PacketLock.liftStale(log)
            return try options.checkFeatures.isEmpty ? checkGrades(options, log) : checkNamed(options, log)
        } catch {
            return Failure(error).report(json: options.json, command: .check, log: log)
        }
    }

    /// CRIU 4.2 promises "list" in its manual but doesn't know it; we do.
    private static func checkNamed(_ options: Options, _ log: Log) throws(OptionError) -> Int32 {
        var results: [(KernelFeature, Bool)] = []
        for name in options.checkFeatures {
            if name == "list" {
                for feature in KernelFeature.all where feature.grade != .required { Output.line(feature.name) }
                continue
            }
            guard let feature = KernelFeature.named(name) else { throw .usage("unknown feature \(name)", try: "check --feature list") }
            results.append((feature, feature.isThere))
        }
        for (feature, isThere) in results where !options.json {
            // CRIU says on standard output only what is there.
            if isThere { Output.line("\(feature.name) is supported") } else { log.warn("\(feature.name) is not supported (\(feature.purpose))") }
        }
        if options.json { report(results) }
        return results.allSatisfy(\.1) ? 0 : 1
    }

    private static func checkGrades(_ options: Options, _ log: Log) -> Int32 {
        var results: [(KernelFeature, Bool)] = []
        for feature in KernelFeature.all {
            switch feature.grade {
            case .required: break
            case .own: continue
            case .extra: if !options.checkExtra { continue }
            case .experimental: if !options.checkExperimental { continue }
            }
            let isThere = feature.isThere
            results.append((feature, isThere))
            if isThere {
                log.info("\(feature.name): supported (\(feature.purpose))")
            } else if feature.grade == .required {
                log.error("\(feature.name): missing (\(feature.purpose))")
            } else {
                log.warn("\(feature.name): missing (\(feature.purpose))")
            }
        }
        let isUsable = results.allSatisfy { $0.1 || $0.0.grade != .required }
        if options.json { report(results) } else { Output.line(verdict(isUsable: isUsable, isComplete: results.allSatisfy(\.1))) }
        return results.allSatisfy(\.1) ? 0 : 1
    }

    private static func verdict(isUsable: Bool, isComplete: Bool) -> String {
        if !isUsable { return "Does not look good." }
        if isComplete { return "Looks good." }
        return "Looks good but some kernel features are missing\nwhich, depending on your process tree, may cause\ndump or restore failure."
    }

    private static func report(_ results: [(KernelFeature, Bool)]) {
        Output.line(JSON.object([
            .init("command", .string("check")), .init("ok", .bool(results.allSatisfy(\.1))),
            .init("features", .object(results.map { .init($0.0.name, .bool($0.1)) })),
            .init("details", .array(results.map { feature, isThere in
                .object([
                    .init("name", .string(feature.name)), .init("category", .string("\(feature.grade)")), .init("supported", .bool(isThere)),
                    .init("needed_for", .string(feature.purpose)),
                ])
            })),
        ]).text)
    }
}
