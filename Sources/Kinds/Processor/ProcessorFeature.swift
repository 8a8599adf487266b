/// One bit of the words of features in cpuinfo.img, by the name Linux gives it in /proc/cpuinfo.
package struct ProcessorFeature: Hashable, Sendable, CustomStringConvertible {
    package let word: Int, bit: Int
    package init(word: Int, bit: Int) { (self.word, self.bit) = (word, bit) }

    package var description: String {
        guard let names = Self.names[word], bit < names.count, names[bit] != "-" else { return "CPUID word \(word) bit \(bit)" }
        return names[bit]
    }

    /// The features that are set in `words`.
    static func all(in words: [UInt32]) -> [ProcessorFeature] {
        words.indices.flatMap { word in (0..<32).filter { words[word] >> UInt32($0) & 1 != 0 }.map { ProcessorFeature(word: word, bit: $0) } }
    }

    /// arch/x86/include/asm/cpufeatures.h; "-" where Linux has no name for a bit.
    private static let names: [Int: [String]] = [
        0: """
            fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe
            """,
        1: "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
        3: "- - - - - - - - - - - - - - - - rep_good - - - nopl - - - - cpuid",
        4: """
            pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt \
            tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor
            """,
        6: """
            lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm \
            topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx
            """,
        9: """
            fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - \
            clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl
            """,
        10: "xsaveopt xsavec xgetbv1 xsaves xfd",
        11: """
            prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - \
            la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc
            """,
        13: "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - ibpb - ibrs stibp - stibp_always_on - - - - - amd_ppin ssbd virt_ssbd - cppc psfd",
        14: "dtherm ida arat - pln - pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req - - - - - - - hfi",
        17: "overflow_recov succor - smca",
        18: """
            - - avx512_4vnniw avx512_4fmaps fsrm - - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - pconfig arch_lbr ibt - amx_bf16 \
            avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities - ssbd
            """,
    ].mapValues { $0.split(separator: " ").map(String.init) }
}
