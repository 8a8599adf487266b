import Foundation

/// Byte fields as arrays, for targets that stay away from Foundation.
extension siginfo_entry {
    public init(bytes: [UInt8]) { self.init(); siginfo = Data(bytes) }
    public var bytes: [UInt8] { Array(siginfo) }
}
extension seccomp_filter {
    public init(program: [UInt8]) { self.init(); filter = Data(program) }
    public var program: [UInt8] { Array(filter) }
}
