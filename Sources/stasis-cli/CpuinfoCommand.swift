import Checkpoint
import ImageMessages
import Images
import Kinds
import Linux
import Options

/// `stasis cpuinfo dump` and `stasis cpuinfo check`: cpuinfo.img, without a tree.
enum CpuinfoCommand {
    static func run(_ options: Options) -> Int32 {
        Session.run(options) { session in
            let images = try ImageDirectory(session.images, session.secrets)
            if options.command == .cpuinfoDump {
                try images.write(.cpuinfo, 0, [Processor.here()])
                try session.streamer?.give(session.images)
                if options.json { Output.line(ResultReport.success(options.command.rawValue, images: session.imagesPath).text) }
                return 0
            }
            let rules = ProcessorRules(rawValue: options.cpuCapabilities?.rawValue ?? 0)
            let comparison = try Processor.compare(try images.singleIfPresent(.cpuinfo), rules)
            for warning in comparison.warnings { session.log.warn("\(warning.text); CRIU's rules leave this out") }
            if options.json { Output.line(ResultReport.processor(comparison).text) }
            guard let error = comparison.error else { return 0 }
            return Failure(error).report(json: false, command: options.command, log: session.log)
        }
    }
}
