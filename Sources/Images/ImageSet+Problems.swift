public import ImageMessages

/// What the images are held against besides each other.
public struct ImageTarget: Sendable {
    /// First address above user space: TASK_SIZE_MAX (arch/x86/include/asm/page_64.h).
    public var addressSpaceEnd: UInt64
    public var architecture: CoreEntry.march
    public init(addressSpaceEnd: UInt64 = 0x7fff_ffff_f000, architecture: CoreEntry.march = .x8664) {
        (self.addressSpaceEnd, self.architecture) = (addressSpaceEnd, architecture)
    }
}

extension ImageSet {
    /// Everything in the images that a restore must not believe: one error for each place, none for images that are sound. At
    /// most 200.
    public func problems(for target: ImageTarget = ImageTarget()) -> [ImageError] {
        var findings = Findings()
        for (place, task) in tasks.enumerated() { check(task, at: place, target, &findings) }
        for task in tasks where !task.isDead { checkMemory(of: task, target, &findings) }
        checkSeccomp(&findings)
        checkDescriptors(&findings)
        checkFiles(&findings)
        checkFileContents(&findings)
        checkTerminals(&findings)
        checkLocks(&findings)
        checkCgroups(&findings)
        checkNamespaces(&findings)
        return findings.errors
    }

    /// Throws the first problem.
    public func validate(for target: ImageTarget = ImageTarget()) throws(ImageError) {
        if let first = problems(for: target).first { throw first }
    }
}
