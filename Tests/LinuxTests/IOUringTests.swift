import Glibc
@testable import Linux
import Testing

@Suite("io_uring") struct IOUringTests {
    /// As Linux 6.18 writes it.
    static let text = """
        pos:\t0
        flags:\t02000002
        mnt_id:\t17
        ino:\t10157418
        SqMask:\t0xfff
        SqHead:\t4001792
        SqTail:\t4001793
        CachedSqHead:\t4001792
        CqMask:\t0x1fff
        CqHead:\t4001791
        CqTail:\t4001792
        CachedCqTail:\t4001792
        SQEs:\t1
            0: opcode:NOP, fd:0, flags:0, off:0, addr:0x0, rw_flags:0x0, buf_index:0 user_data:0, e0:0x0, e1:0x0
        CQEs:\t1
         4095: user_data:0, res:0, flag:0, extra1:0, extra2:0
        SqThread:\t-1
        SqThreadCpu:\t-1
        UserFiles:\t3
            0: /dev/null
            1: <none>
            2: /tmp/a\\040b: c
        UserBufs:\t2
            0: 0x55c032de50e0/5000
            1: <none>
        PollList:
          op=6, task_works=0
        CqOverflowList:
          user_data=1, res=2, flags=0
        NAPI:\tdisabled

        """

    @Test("fdinfo's lines are told apart by their section") func parsing() throws {
        let info = try #require(IOUringInfo(parsing: Self.text))
        #expect(info.submissions == 4096 && info.completions == 8192 && info.submitted == 4_001_792 && info.submissionTail == 4_001_793 && info.completionHead == 4_001_791)
        #expect(info.files == [0: "/dev/null", 2: "/tmp/a b: c"] && info.fileSlots == 3)
        #expect(info.buffers == [0: .init(address: 0x55c0_32de_50e0, length: 5000)] && info.bufferSlots == 2)
        #expect(info.showsSubmission && info.hasWideSubmission && info.hasWideCompletion && info.waiting == 1 && info.overflown == 1 && info.submitter == -1)
    }

    @Test("what is not of a ring is none, and a text cut anywhere is read without harm") func damage() {
        #expect(IOUringInfo(parsing: "pos:\t0\nflags:\t02\n") == nil)
        for end in 0..<Self.text.count { _ = IOUringInfo(parsing: String(Self.text.prefix(end))) }
    }

    @Test("this kernel's layout has room for all it names") func layout() throws {
        let layout = try IOUringLayout(submissions: 8, completions: 16, shape: 0), wide = try IOUringLayout(submissions: 8, completions: 16, shape: IOUring.Setup.wideSubmissions | IOUring.Setup.wideCompletions)
        #expect(layout.array >= layout.entries + 16 * 16 && layout.ringsSize(withArray: true) == layout.array + 32 && layout.submissionsSize == 512)
        #expect(wide.array >= wide.entries + 16 * 32 && wide.submissionsSize == 1024)
    }
}
