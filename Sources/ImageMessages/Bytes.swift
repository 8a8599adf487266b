public import Foundation

extension Data {
    /// The bytes of a field of type `bytes`, made without the caller importing Foundation.
    public init(imageBytes: [UInt8]) { self.init(imageBytes) }
}
