import Checkpoint
import Kinds
import Linux
import Options
import Plugins

/// `stasis check`: what the running kernel offers, in CRIU's grades and words; with --extra also whether plugins for GPUs could be used.
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

    /// One line: a feature of the kernel, or a plugin that a machine with GPUs has use for.
    private struct Answer {
        let name: String, category: String, isThere: Bool, purpose: String
        /// What was found, where there is more to say than yes or no.
        var finding: String?
        /// Where false, it is no fault of this machine that it is not there.
        var counts = true

        init(_ feature: KernelFeature) { (name, category, isThere, purpose) = (feature.name, "\(feature.grade)", feature.isThere, feature.purpose) }
        init(_ gpu: GPUSupport) {
            (name, category, isThere, purpose) = (gpu.name, "plugin", gpu.verdict == .usable, gpu.purpose)
            (finding, counts) = (gpu.finding, gpu.verdict == .lacking)
        }
        var detail: String { purpose + (finding.map { "; " + $0 } ?? "") }
    }

    /// CRIU 4.2 promises "list" in its manual but doesn't know it; we do.
    private static func checkNamed(_ options: Options, _ log: Log) throws(OptionError) -> Int32 {
        var answers: [Answer] = []
        for name in options.checkFeatures {
            if name == "list" {
                for feature in KernelFeature.all where feature.grade != .required { Output.line(feature.name) }
                for name in GPUSupport.names { Output.line(name) }
            } else if let feature = KernelFeature.named(name) {
                answers.append(Answer(feature))
            } else if let gpu = GPUSupport.here(name) {
                answers.append(Answer(gpu))
            } else {
                throw .usage("unknown feature \(name)", try: "check --feature list")
            }
        }
        for answer in answers where !options.json {
            // CRIU says on standard output only what is there.
            if answer.isThere { Output.line("\(answer.name) is supported" + (answer.finding.map { " (\($0))" } ?? "")) } else { log.warn("\(answer.name) is not supported (\(answer.detail))") }
        }
        if options.json { report(answers, isWell: answers.allSatisfy(\.isThere)) }
        return answers.allSatisfy(\.isThere) ? 0 : 1
    }

    private static func checkGrades(_ options: Options, _ log: Log) -> Int32 {
        var answers: [Answer] = []
        var isUsable = true
        for feature in KernelFeature.all {
            switch feature.grade {
            case .required: break
            case .own: continue
            case .extra: if !options.checkExtra { continue }
            case .experimental: if !options.checkExperimental { continue }
            }
            let answer = Answer(feature)
            answers.append(answer)
            if answer.isThere {
                log.info("\(answer.name): supported (\(answer.detail))")
            } else if feature.grade == .required {
                isUsable = false
                log.error("\(answer.name): missing (\(answer.detail))")
            } else {
                log.warn("\(answer.name): missing (\(answer.detail))")
            }
        }
        if options.checkExtra {
            for gpu in GPUSupport.names.compactMap(GPUSupport.here) {
                let answer = Answer(gpu)
                answers.append(answer)
                switch gpu.verdict {
                case .usable: log.info("\(answer.name): can be used (\(answer.detail))")
                case .noDevice: log.info("\(answer.name): not needed here (\(answer.detail))")
                case .lacking: log.warn("\(answer.name): can't be used (\(answer.detail))")
                }
            }
        }
        let isWell = answers.allSatisfy { $0.isThere || !$0.counts }
        if options.json { report(answers, isWell: isWell) } else { Output.line(verdict(isUsable: isUsable, isComplete: isWell)) }
        return isWell ? 0 : 1
    }

    private static func verdict(isUsable: Bool, isComplete: Bool) -> String {
        if !isUsable { return "Does not look good." }
        if isComplete { return "Looks good." }
        return "Looks good but some kernel features are missing\nwhich, depending on your process tree, may cause\ndump or restore failure."
    }

    private static func report(_ answers: [Answer], isWell: Bool) {
        Output.line(JSON.object([
            .init("command", .string("check")), .init("ok", .bool(isWell)),
            .init("features", .object(answers.map { .init($0.name, .bool($0.isThere)) })),
            .init("details", .array(answers.map { answer in
                .object([
                    .init("name", .string(answer.name)), .init("category", .string(answer.category)), .init("supported", .bool(answer.isThere)),
                    .init("needed_for", .string(answer.purpose)), .init("needed_here", .bool(answer.counts || answer.isThere)), .init("finding", answer.finding.map(JSON.string) ?? .null),
                ])
            })),
        ]).text)
    }
}
