import Glibc
import Linux

/// `stasis count`: the program that the demo dumps. It counts, a line at a time, until it is ended.
enum CountCommand {
    static func run() -> Int32 {
        // Descriptors that whoever started us forgot to close are no part of what is to be shown.
        _ = try? Syscall.call("close_range", 436, 3, Int(UInt32.max))
        var number = 0
        while true {
            number += 1
            Output.line("\(number)")
            usleep(150_000)
        }
    }
}
