import CLinux
import Glibc
package import Graft
package import Linux

extension Userfault {
    /// Lets a task make one and takes it away: it leaves no descriptor in the task, also when we die in between.
    /// - Parameter used: the task's descriptor numbers, which stands still.
    /// - Parameter userModeOnly: whether faults inside system calls are left alone; needs no rights.
    package static func make(in grafted: GraftedTask, used: [Int32], userModeOnly: Bool, features: Features) throws(SyscallError) -> Userfault {
        let taken = Set(used)
        var free: Int32 = 0
        while taken.contains(free) { free += 1 }
        try grafted.setCleanup(closing: [free])
        var make = grafted.batch()
        let call = make.call("userfaultfd", SYS_userfaultfd, .init(O_CLOEXEC | O_NONBLOCK | (userModeOnly ? 1 : 0)))
        try grafted.run(&make)
        let number = Int32(truncatingIfNeeded: make.result(call))
        let result = Result { () throws(SyscallError) in Userfault(try FileDescriptor.duplicate(number, ofProcess: try FileDescriptor.process(grafted.process))) }
        var close = grafted.batch()
        close.call("close", SYS_close, .init(number))
        try grafted.run(&close)
        try grafted.setCleanup(closing: [])
        let made = try result.get()
        try made.enable(features)
        return made
    }
}
