import CFuzzer
import Linux

/// libFuzzer's entry: the first byte picks who reads the rest (KernelAnswer).
@c(LLVMFuzzerTestOneInput)
public func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = UnsafeBufferPointer(start: bytes, count: count)
    guard let first = input.first, let answer = KernelAnswer(rawValue: first % UInt8(KernelAnswer.allCases.count)) else { return 0 }
    answer.read(Array(input.dropFirst()))
    return 0
}
