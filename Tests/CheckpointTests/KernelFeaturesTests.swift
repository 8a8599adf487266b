import Linux
import Testing

@testable import Checkpoint

@Suite("kernel features", .serialized) struct KernelFeaturesTests {
    @Test("CRIU's 45 names, each once") func names() {
        let names = KernelFeature.all.filter { $0.grade != .required && $0.grade != .own }.map(\.name)
        #expect(names.count == 45 && Set(names).count == 45)
        #expect(KernelFeature.named("uffd-noncoop") != nil && KernelFeature.named("list") == nil)
    }

    @Test("a probe of something that is not there says so") func negative() {
        #expect(!KernelProbe.exists("/proc/self/ns/none") && !KernelProbe.hasFilesystem("nonefs"))
        #expect(!KernelProbe.isRelease(atLeast: 99, 0) && KernelProbe.isRelease(atLeast: 2, 6))
        #expect(!KernelProbe.fdinfo(of: try? FileDescriptor.open("/", 0), has: "nonsense:"))
        #expect(!KernelProbe.pagemapScan(categories: 1 << 60))
        #expect(!KernelProbe.userfault(features: 1 << 60))
        #expect(!KernelProbe.mapsVdso(0x7fff))
    }

    /// What every kernel that Stasis runs on has (5.9 and later), whoever asks.
    @Test("what is always there is found", arguments: ["mnt_id", "timerfd", "fdinfo_lock", "kcmp_epoll", "openat2", "clone3_set_tid", "ns_pid", "timens"])
    func positive(name: String) throws { #expect(try #require(KernelFeature.named(name)).isThere) }
}
